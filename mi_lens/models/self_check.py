"""Checks a loaded model on a few random tokens: what can be done with it, and what cannot.

Hugging Face's own model of the same weights says what is right. The tokens are few, so windows and
scaled positions that begin behind them are not seen here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.models.backends.protocol import Backend
from mi_lens.models.hook_names import block_output
from mi_lens.models.overflow import advice
from mi_lens.models.padding import left_pad

LENGTH, SHORTER = 12, 8  # Tokens of the two rows, of which one is padded.
PROMPT = 9  # Positions that are read in one step before single ones.


@dataclass(frozen=True)
class Abilities:
    """What a model was seen to do when it was loaded; each is empty, or says why not.

    Attributes:
        read: In a padded batch, blocks' outputs at their hooks are Hugging Face's hidden states of
            each row alone, and a step with a cache continues as one pass over the whole.
        generate: Rows of a cache can be chosen, joined and cut, and go on as before.
        recycle: A block can run again at the last position, and the model can go on from it.
    """

    read: str = ""
    generate: str = ""
    recycle: str = ""


@dataclass(frozen=True)
class Reference:
    """What Hugging Face's own model gives for the tokens of the check.

    Attributes:
        rows: The token ids of each row.
        states: By row, the outputs of all blocks but the last, `[block, pos, d_model]`.
        logits: By row, the logits, `[pos, d_vocab]`.
    """

    rows: list[list[int]]
    states: list[Float[Tensor, "..."]]
    logits: list[Float[Tensor, "..."]]


@torch.inference_mode()
def reference(hf_model: Any) -> Reference:
    """Hugging Face's hidden states and logits, taken before a backend takes the model over."""
    vocabulary = hf_model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    rows, states, logits = [], [], []
    for length in (LENGTH, SHORTER):
        tokens = torch.randint(vocabulary, (1, length), generator=generator)
        output = hf_model(tokens.to(hf_model.device), output_hidden_states=True, use_cache=False)
        rows.append(tokens[0].tolist())
        # The first is the embedding; the last has passed the final norm.
        kept = [state[0].to(output.logits.device) for state in output.hidden_states[1:-1]]
        states.append(torch.stack(kept) if kept else output.logits.new_zeros(0))
        logits.append(output.logits[0])
    return Reference(rows, states, logits)


@torch.inference_mode()
def check(backend: Backend, model: Any, expected: Reference) -> Abilities:
    """What a model can do: each ability needs the one before."""
    reasons: dict[str, str] = {}
    checks: dict[str, Callable[[_Trial], None]] = {
        "read": _read,
        "generate": _generate,
        "recycle": _recycle,
    }
    trial = _Trial(backend, model, expected)
    failed = ""
    for ability, run in checks.items():
        if not failed:
            try:
                run(trial)
            except _DifferenceError as difference:
                failed = str(difference)
            except Exception as error:  # Hugging Face and TransformerLens raise what they like.
                failed = f"{type(error).__name__}: {error}"
        reasons[ability] = failed
    return Abilities(**reasons)


def require_able(model: Any, ability: Literal["read", "generate", "recycle"]) -> None:
    """Refuse a model that failed the check of an ability when it was loaded.

    A model that `mi_lens.load` did not load was not checked, and passes.

    Raises:
        ValueError: If the check failed; the message has the reason.
    """
    abilities = getattr(model, "abilities", None)
    reason = getattr(abilities, ability) if isinstance(abilities, Abilities) else ""
    if reason:
        able = [each.name for each in fields(Abilities) if not getattr(abilities, each.name)]
        raise ValueError(
            f"{model.cfg.model_name}: this package cannot {ability} with this model: {reason}. "
            f"What it can do: {', '.join(able) or 'nothing'}; try the other backend, or another "
            "version of TransformerLens or transformers"
        )


class _DifferenceError(Exception):
    """A value is not what it should be."""


@dataclass
class _Trial:
    backend: Backend
    model: Any
    expected: Reference

    def close(self, what: str, got: Tensor, wanted: Tensor) -> None:
        """Raises unless two sequences of vectors are equal up to rounding at most positions.

        One position may differ: where two experts are nearly equally good, rounding decides.
        """
        if not wanted.isfinite().all():
            raise _DifferenceError(
                f"{what}: Hugging Face's own are not finite; {advice(self.model.cfg.dtype)}"
            )
        got, wanted = got.float(), wanted.to(got.device).float()
        if got.shape != wanted.shape:
            raise _DifferenceError(
                f"{what} has shape {tuple(got.shape)}, Hugging Face's {tuple(wanted.shape)}"
            )
        coarsest = max(torch.finfo(kind).eps for kind in (self.model.cfg.dtype, torch.float32))
        error = (got - wanted).norm(dim=-1) / wanted.norm(dim=-1)
        worst = error.median(dim=-1).values.max().item() if error.numel() else 0.0
        if not worst <= coarsest**0.5:
            raise _DifferenceError(f"{what} differs from Hugging Face's by {100 * worst:.2g} %")

    @contextmanager
    def recording(self, names: list[str]) -> Iterator[dict[str, list[Tensor]]]:
        """Inside, what hooks of these names see is recorded."""
        seen: dict[str, list[Tensor]] = {name: [] for name in names}

        def record(name: str, value: Tensor, hook: Any = None) -> None:
            seen[name].append(value.clone())

        with self.model.hooks(fwd_hooks=[(name, partial(record, name)) for name in names]):
            yield seen

    def batch(self) -> tuple[Int[Tensor, "2 pos"], Int[Tensor, "2 pos"]]:
        return left_pad(self.expected.rows, self.model.cfg.device)


def _read(trial: _Trial) -> None:
    """A padded batch: every block's output, the logits, and the same through a cache.

    Backends leave steps out where no hook watches them: they are also run while one does.
    """
    backend, model, expected = trial.backend, trial.model, trial.expected
    tokens, mask = trial.batch()
    names = [block_output(layer) for layer in range(model.cfg.n_layers)]
    with trial.recording(names) as seen:
        logits = backend.forward(model, tokens, mask)
    for name in names:
        if len(seen[name]) != 1:
            raise _DifferenceError(f"{name} fires {len(seen[name])} times in a pass, not once")
    cache = backend.new_cache(model, 2)
    ends = [0, *range(PROMPT, LENGTH + 1)]
    steps = [
        backend.step(model, tokens[:, start:end], mask[:, :end], cache)
        for start, end in pairwise(ends)
    ]
    stepwise = torch.cat(steps, dim=1)
    pattern = f"blocks.{model.cfg.n_layers // 2}.attn.hook_pattern"
    with trial.recording([pattern] if pattern in backend.hook_names(model) else []):
        watched = backend.forward(model, tokens, mask)
    for row, (states, wanted) in enumerate(zip(expected.states, expected.logits, strict=True)):
        real = slice(-len(expected.rows[row]), None)
        for name, state in zip(names[:-1], states, strict=True):
            trial.close(f"{name} of row {row}", seen[name][0][row, real], state)
        trial.close(f"the logits of row {row}", logits[row, real], wanted)
        last = backend.unembed(model, seen[names[-1]][0][row, real])
        trial.close(f"the logits read from {names[-1]}", last, wanted)
        trial.close(f"the logits of row {row} with a cache", stepwise[row, real], wanted)
        trial.close(f"the logits of row {row} under a hook", watched[row, real], wanted)


def _generate(trial: _Trial) -> None:
    """Rows of a padded batch's cache are cut, swapped, joined and trimmed, and go on."""
    backend, model, expected = trial.backend, trial.model, trial.expected
    tokens, mask = trial.batch()
    cache = backend.new_cache(model, 2)
    backend.step(model, tokens, mask, cache, logits_to_keep=0)
    backend.crop(cache, PROMPT)
    backend.keep_rows(cache, torch.tensor([1], device=tokens.device))
    other = backend.new_cache(model, 1)
    backend.step(model, tokens[:1, :PROMPT], mask[:1, :PROMPT], other, logits_to_keep=0)
    backend.join(cache, other)
    backend.keep_rows(cache, torch.tensor([1, 0], device=tokens.device))
    logits = backend.step(model, tokens[:, PROMPT:], mask, cache)
    for row, wanted in enumerate(expected.logits):
        trial.close(f"the logits of row {row} of a padded batch", logits[row], wanted[-3:])
    backend.keep_rows(cache, torch.tensor([1], device=tokens.device))
    backend.crop(cache, PROMPT)
    padding = LENGTH - SHORTER
    backend.trim(cache, padding)
    logits = backend.step(model, tokens[1:, PROMPT:], mask[1:, padding:], cache)
    trial.close("the logits of a row without its padding", logits[0], expected.logits[1][-3:])


def _recycle(trial: _Trial) -> None:
    """Each block runs again on its own input, which must change nothing; then on from a block."""
    backend, model, expected = trial.backend, trial.model, trial.expected
    tokens, mask = trial.batch()
    n_layers = model.cfg.n_layers
    names = [block_output(layer) for layer in range(n_layers)]
    cache = backend.new_cache(model, 2)
    with trial.recording(names) as seen:
        backend.step(model, tokens, mask, cache, logits_to_keep=0)
    order = [1, 0]  # No tensor: blocks may lie on other devices.
    rows = torch.tensor(order, device=tokens.device)
    for layer in sorted({1, n_layers // 2, n_layers - 1} & set(range(1, n_layers))):
        before = seen[names[layer - 1]][0][order, -1:]
        again = backend.again(model, layer, before, mask[order], cache, rows)
        trial.close(f"block {layer} run again", again, seen[names[layer]][0][order, -1:])
        logits = backend.onward(model, layer, before, mask[order], cache, rows)
        for got, wanted in zip(logits, reversed(expected.logits), strict=True):
            trial.close(f"the logits from block {layer} on", got[None], wanted[-1:])
    alone = backend.new_cache(model, 1)
    layer = n_layers - 1
    if layer:
        output = backend.some_blocks(
            model, range(layer, layer + 1), seen[names[layer - 1]][0][:1], alone
        )
        trial.close(f"block {layer} run alone", output[0], seen[names[layer]][0][0])
