"""A block run again at the last position, against Hugging Face's layers run by hand.

The reference has no cache: every block is run over whole sequences, one row at a time.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("exactly")

EXACT = {"rtol": 0, "atol": 1e-9}
PADDING = (0, 4, 15)
ROWS = (2, 0)  # row 1 is never run again
PROMPT, LENGTH = 20, 25
TWICE = (PROMPT - 1, PROMPT + 1)  # the columns at which a block runs again
LAYERS = (0, 1, 2)


class Blocks:
    """A Hugging Face model, block by block."""

    def __init__(self, source: Any) -> None:
        self.source, self.config, base = source, source.config, source.base_model
        self.is_gpt2 = hasattr(base, "h")
        self.layers = base.h if self.is_gpt2 else base.layers
        self.norm = base.ln_f if self.is_gpt2 else base.norm

    def embed(self, tokens: Tensor) -> Tensor:
        states = self.source.get_input_embeddings()(tokens)
        states = states * getattr(self.config, "embedding_multiplier", 1.0)
        if self.is_gpt2:
            states = states + self.source.base_model.wpe(torch.arange(len(tokens)))
        return states

    def run(self, layer: int, states: Tensor) -> Tensor:
        steps = torch.arange(len(states))
        distance = steps[:, None] - steps
        kinds = getattr(self.config, "layer_types", None)
        kind = "sliding_attention" if kinds is None else kinds[layer]
        window = getattr(self.config, "sliding_window", None) or len(states)
        reach = window if kind == "sliding_attention" else len(states)
        hidden = (distance < 0) | (distance >= reach)
        mask = torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)
        told: dict[str, Any] = {"attention_mask": mask[None, None]}
        if not self.is_gpt2:
            by_kind = "full_attention" in self.config.rope_parameters
            rotary, kinds = self.source.base_model.rotary_emb, [kind] if by_kind else []
            told["position_embeddings"] = rotary(states[None], steps[None], *kinds)
        return self.layers[layer](states[None], **told)[0]

    def unembed(self, states: Tensor) -> Tensor:
        logits = self.source.lm_head(self.norm(states))
        logits = logits / getattr(self.config, "logits_scaling", 1.0)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def again(self, layer: int, states: Tensor, places: list[int], keep_kv: bool) -> Tensor:
        """The block's output when it runs again at these places on its own output."""
        if not keep_kv:
            for place in places:
                states = replaced(states, place, self.run(layer, states)[place])
            return self.run(layer, states)
        once = self.run(layer, states)
        for place in places:
            changed = replaced(states, place, self.run(layer, states)[place])
            once = replaced(once, place, self.run(layer, changed)[place])
        return once

    def logits(self, tokens: Tensor, layer: int, places: list[int], keep_kv: bool) -> Tensor:
        states = self.embed(tokens)
        for index in range(len(self.layers)):
            if index == layer:
                states = self.again(layer, states, places, keep_kv)
            else:
                states = self.run(index, states)
        return self.unembed(states)


def replaced(states: Tensor, place: int, state: Tensor) -> Tensor:
    changed = states.clone()
    changed[place] = state
    return changed


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(6, 384, (len(PADDING), LENGTH), generator=generator)
    mask = torch.stack([(torch.arange(LENGTH) >= padding).long() for padding in PADDING])
    return tokens, mask


def expected(source: Any, layer: int, keep_kv: bool) -> list[Tensor]:
    """By row, the logits at its real positions from the last of the prompt on."""
    blocks, tokens = Blocks(source), batch()[0]
    rows = []
    for row, padding in enumerate(PADDING):
        places = [column - padding for column in TWICE] if row in ROWS else []
        logits = blocks.logits(tokens[row, padding:], layer, places, keep_kv)
        rows.append(logits[PROMPT - 1 - padding :])
    return rows


def assert_decodes(source: Any, layer: int, keep_kv: bool, logits: list[Tensor]) -> None:
    wanted, plain = expected(source, layer, keep_kv), expected(source, 99, keep_kv)
    for row in range(len(PADDING)):
        got = torch.stack([step[row] for step in logits])
        torch.testing.assert_close(got, wanted[row], **EXACT)
        effect = (wanted[row] - plain[row]).abs().amax(dim=1)
        assert (effect[[0, 2]] > 1e-2).all() == (row in ROWS)
        # Later steps see it too, unless the last block keeps what they would see it by.
        sees = row in ROWS and not (keep_kv and layer == LAYERS[-1])
        assert (effect[1] > 1e-6) == sees


def decode(backend: Any, model: Any, step: Callable[[Any, Tensor, Tensor, int], Tensor]) -> list:
    """Prompt, then token by token; `step` takes cache, tokens, mask and the last column."""
    tokens, mask = batch()
    cache = backend.new_cache(model, len(tokens))
    ends = [0, *range(PROMPT, LENGTH + 1)]
    return [
        step(cache, tokens[:, start:end], mask[:, :end], end - 1) for start, end in pairwise(ends)
    ]


@pytest.mark.parametrize("keep_kv", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_after_a_step(backend: Any, model: Any, source: Any, layer: int, keep_kv: bool) -> None:
    rows = torch.tensor(ROWS)
    name = f"blocks.{layer}.hook_resid_post"

    def step(cache: Any, tokens: Tensor, mask: Tensor, column: int) -> Tensor:
        seen: list[Tensor] = []
        with model.hooks(fwd_hooks=[(name, lambda state, hook: seen.append(state))]):
            logits = backend.step(model, tokens, mask, cache, 1)[:, 0].clone()
        if column in TWICE:
            told = (mask[rows], cache, rows)
            state = backend.again(model, layer, seen[0][rows, -1:], *told, keep_kv=keep_kv)
            logits[rows] = backend.onward(model, layer + 1, state, *told)
        return logits

    assert_decodes(source, layer, keep_kv, decode(backend, model, step))


@pytest.mark.parametrize("keep_kv", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_within_a_step(backend: Any, model: Any, source: Any, layer: int, keep_kv: bool) -> None:
    rows = torch.tensor(ROWS)
    name = f"blocks.{layer}.hook_resid_post"
    inside = [f"blocks.{layer}.{place}" for place in ("hook_resid_pre", "attn.hook_z")]
    fired: list[str] = []

    def step(cache: Any, tokens: Tensor, mask: Tensor, column: int) -> Tensor:
        def recycle(state: Tensor, hook: Any) -> Tensor | None:
            fired.append(name)
            if column not in TWICE:
                return None
            changed = state.clone()
            given = (state[rows, -1:], mask[rows], cache, rows)
            changed[rows, -1:] = backend.again(model, layer, *given, keep_kv=keep_kv)
            return changed

        watch = [(place, lambda state, hook, place=place: fired.append(place)) for place in inside]
        with model.hooks(fwd_hooks=[*watch, (name, recycle)]):
            return backend.step(model, tokens, mask, cache, 1)[:, 0]

    assert_decodes(source, layer, keep_kv, decode(backend, model, step))
    assert fired == [*inside, name] * (LENGTH - PROMPT + 1)


def test_a_second_pass_may_start_anywhere(backend: Any, model: Any) -> None:
    """From an unchanged state, every second half of a step is the step itself."""
    rows = torch.tensor(ROWS)
    states: dict[int, Tensor] = {}
    hooks: list[tuple[str, Any]] = [
        (f"blocks.{n}.hook_resid_pre", lambda state, hook, n=n: states.update({n: state}))
        for n in LAYERS
    ]
    last = f"blocks.{len(LAYERS) - 1}.hook_resid_post"
    hooks.append((last, lambda state, hook: states.update({len(LAYERS): state})))

    def step(cache: Any, tokens: Tensor, mask: Tensor, column: int) -> Tensor:
        with model.hooks(fwd_hooks=hooks):
            logits = backend.step(model, tokens, mask, cache, 1)[:, 0]
        for layer, state in states.items():
            second = backend.onward(model, layer, state[rows, -1:], mask[rows], cache, rows)
            torch.testing.assert_close(second, logits[rows], **EXACT)
        return logits

    decode(backend, model, step)


def test_the_second_pass_is_seen_and_steered_by_hooks(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens, mask, cache, 0)
    rows, states = torch.tensor(ROWS), torch.ones(len(ROWS), 1, model.cfg.d_model).double()
    names = ["blocks.1.attn.hook_q", "blocks.2.hook_resid_pre", "ln_final.hook_normalized"]
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [
        (name, lambda value, hook, name=name: shapes.update({name: value.shape[:2]}))
        for name in ["blocks.0.hook_resid_post", *names]
    ]
    with model.hooks(fwd_hooks=hooks):
        logits = backend.onward(model, 1, states, mask[rows], cache, rows)
    assert shapes == dict.fromkeys(names, (len(ROWS), 1))
    with model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", lambda state, hook: 2 * states)]):
        steered = backend.onward(model, 1, states, mask[rows], cache, rows)
    torch.testing.assert_close(steered, backend.unembed(model, 2 * states)[:, 0], **EXACT)
    assert (steered - logits).abs().max() > 0.1


def test_other_rows_keep_their_cache_to_the_bit(backend: Any, model: Any) -> None:
    tokens, mask = batch()
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :-1], mask[:, :-1], cache, 0)
    states = torch.ones(len(ROWS), 1, model.cfg.d_model).double()
    rows, other = torch.tensor(ROWS), torch.tensor([1])
    told = (states, mask[rows, :-1], cache, rows)
    backend.again(model, 1, *told)
    backend.onward(model, 1, *told)
    untouched = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :-1], mask[:, :-1], untouched, 0)
    logits = []
    for held in (cache, untouched):
        backend.keep_rows(held, other)
        logits.append(backend.step(model, tokens[other, -1:], mask[other], held))
    assert torch.equal(logits[0], logits[1])
