"""States of finished traces, read again by teacher forcing, and the states of gold answers."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mi_lens.backends import backend_of, resolve_hook_names
from mi_lens.decoding import left_pad
from mi_lens.files import replacing
from mi_lens.problems import Problem
from mi_lens.prompts import encode, prompt_text
from mi_lens.traces import Trace

AnswerSite = Literal["solution_last", "answer_last", "answer_mean"]
SEGMENT = 512  # Positions read at once: bounds the attention scores that stand in memory.

States = dict[str, Float[Tensor, "step d"]]


@torch.no_grad()  # Not inference mode: what is returned is the caller's to change.
def read_states(
    model, sequences: Sequence[Sequence[int]], hook_names: Sequence[str], lasts: Sequence[int]
) -> list[States]:
    """States at the last positions of token sequences, on the CPU in the model's dtype.

    Reads the batch segment by segment through the cache, as decoding does: the working memory is
    one segment's, besides the cache and what is returned.

    Args:
        model: A HookedTransformer or TransformerBridge.
        sequences: Token ids, one sequence a row.
        hook_names: Activations of shape (batch, pos, d).
        lasts: How many of each row's last positions to return.

    Returns:
        For every row, hook name to states of shape (lasts[row], d).

    Raises:
        ValueError: If a hook name does not exist or holds no (batch, pos, d) activation, or a
            sequence is empty or longer than the model's context.
    """
    backend = backend_of(model)
    names = resolve_hook_names(model, hook_names)
    for row, ids in enumerate(sequences):
        if not 0 < len(ids) <= model.cfg.n_ctx:
            raise ValueError(
                f"sequence {row} has {len(ids)} tokens; expected 1 to the model's context, "
                f"{model.cfg.n_ctx}"
            )
    tokens, mask = left_pad(sequences, device=model.cfg.device)
    width = tokens.shape[1]
    kept: list[dict[str, list[Tensor]]] = [{name: [] for name in names} for _ in sequences]
    cache = backend.new_cache(model, len(sequences))
    for start in range(0, width, SEGMENT):
        stop = min(start + SEGMENT, width)

        # A bridge calls a hook by another of its names: it is kept under the one asked for.
        def keep(activation: Tensor, hook, name: str, start=start, stop=stop) -> None:
            if activation.ndim != 3 or activation.shape[1] != stop - start:
                raise ValueError(
                    f"hook name {name!r} holds an activation of shape "
                    f"{tuple(activation.shape)}; expected (batch, pos, d)"
                )
            for row, last in enumerate(lasts):
                first = max(width - last - start, 0)
                if first < stop - start:
                    kept[row][name].append(activation[row, first:].to("cpu", copy=True))

        with model.hooks(fwd_hooks=[(name, partial(keep, name=name)) for name in names]):
            backend.step(model, tokens[:, start:stop], mask[:, :stop], cache, logits_to_keep=0)
    return [{name: torch.cat(parts) for name, parts in row.items()} for row in kept]


def capture(
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    batch_size: int = 8,
    progress: bool = False,
) -> list[States]:
    """States of every generated step: row t of a result is the state that emits token t.

    Args:
        model: The model whose states are wanted: a HookedTransformer or TransformerBridge.
        traces: Finished traces, generated or imported.
        hook_names: Such as "blocks.20.hook_resid_post".
        batch_size: Traces read together; changes speed and memory, not states.
        progress: Shows a bar on a terminal's stderr.

    Returns:
        For every trace, hook name to states of shape (step, d), on the CPU in the model's dtype.

    Raises:
        ValueError: If there are no traces or hook names, a hook name does not exist, or a trace is
            empty, longer than the context or holds a token this model does not have.
    """
    if not traces:
        raise ValueError("no traces to capture; expected at least one")
    if not hook_names:
        raise ValueError("no hook names to capture; expected some, as 'blocks.0.hook_resid_post'")
    for trace in traces:
        if not len(trace):
            raise ValueError(f"trace {trace.id} is empty: it has no steps to capture")
        if (largest := max(*trace.prompt_ids, *trace.token_ids)) >= model.cfg.d_vocab:
            raise ValueError(
                f"trace {trace.id} holds token {largest} and this model's vocabulary has "
                f"{model.cfg.d_vocab}; import its text with Trace.from_text and this tokenizer"
            )
    states: list[States] = []
    with tqdm(
        total=len(traces), desc="capture", unit="trace", disable=None if progress else True
    ) as bar:
        for start in range(0, len(traces), batch_size):
            batch = traces[start : start + batch_size]
            states += read_states(
                model,
                # The last token is emitted, never read.
                [(*trace.prompt_ids, *trace.token_ids[:-1]) for trace in batch],
                hook_names,
                [len(trace) for trace in batch],
            )
            bar.update(len(batch))
    return states


def answer_state(
    model,
    problem: Problem,
    hook_names: Sequence[str],
    *,
    site: AnswerSite = "solution_last",
    template: bool = False,
) -> dict[str, Float[Tensor, "d"]]:
    """The state of a problem's gold answer, h_y, at every hook name.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        problem: Its `solution` or `answer` is read.
        hook_names: As for `capture`.
        site: "solution_last", the last token of the worked solution (paper 1's code);
            "answer_last", the last token of the answer; "answer_mean", the mean over its tokens.
        template: Reads the text as the reply to the question under the chat template; else alone,
            with the special tokens that the tokenizer puts before plain text (paper 1's code).

    Raises:
        ValueError: If the site is unknown, or asks for a solution that the problem lacks.
    """
    if site not in get_args(AnswerSite):
        raise ValueError(f"site={site!r}: expected one of {get_args(AnswerSite)}")
    text = problem.solution if site == "solution_last" else problem.answer
    if not text:
        wanted = "solution" if site == "solution_last" else "answer"
        raise ValueError(
            f"problem {problem.id} has no {wanted}; use another site than {site!r} "
            f"(expected one of {get_args(AnswerSite)})"
        )
    tokenizer = model.tokenizer
    if template:
        before = encode(tokenizer, prompt_text(tokenizer, problem.question), templated=True)
        ids = [*before, *tokenizer.encode(text, add_special_tokens=False)]
        length = len(ids) - len(before)
    else:
        ids = encode(tokenizer, text, templated=False)
        length = len(tokenizer.encode(text, add_special_tokens=False))
    (states,) = read_states(model, [ids], hook_names, [length])
    if site == "answer_mean":
        return {name: state.double().mean(0).to(state.dtype) for name, state in states.items()}
    return {name: state[-1].clone() for name, state in states.items()}


@torch.inference_mode()
def next_token_uncertainty(
    model, trace: Trace, last_states: Float[Tensor, "step d"]
) -> dict[str, Float[np.ndarray, " step"]]:
    """How sure the model is of each generated token, in bits.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace.
        last_states: Its states at the last block's hook_resid_post.

    Returns:
        "entropy" of the next-token distribution (at temperature 1), and "surprisal" of the token
        that was emitted.
    """
    if len(last_states) != len(trace):
        raise ValueError(f"trace {trace.id}: {len(last_states)} states for {len(trace)} steps")
    backend = backend_of(model)
    entropy, surprisal = [], []
    emitted = torch.tensor(trace.token_ids)
    for part, tokens in zip(last_states.split(256), emitted.split(256), strict=True):
        log_p = backend.unembed(model, part).double().log_softmax(-1).cpu()
        entropy.append(torch.special.entr(log_p.exp()).sum(-1) / math.log(2))
        surprisal.append(-log_p.gather(-1, tokens[:, None])[:, 0] / math.log(2))
    return {
        "entropy": torch.cat(entropy).numpy(),
        "surprisal": torch.cat(surprisal).numpy(),
    }


def save_activations(states: States, path: str | Path, **metadata: str) -> None:
    """Writes one trace's states as safetensors, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: s.contiguous() for name, s in states.items()}, temporary, metadata)


def load_activations(path: str | Path) -> States:
    """Reads what `save_activations` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not whole safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such activations")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}); capture it again"
        ) from error
