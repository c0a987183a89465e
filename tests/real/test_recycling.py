"""Recycling at each block of a pretrained model, against Hugging Face's layers run by hand."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.models.backends.lookup import get_backend
from tests.models.backends.test_running_again import Blocks

pytestmark = pytest.mark.real
QUESTION = "2+3?"
LAYERS = range(30)


@dataclass(frozen=True)
class ByHand:
    """A block run again at the last position of the prompt.

    Attributes:
        logits: Of the prompt's last position.
        token: The token that follows.
        next_logits: Of the position that reads it.
    """

    logits: torch.Tensor
    token: int
    next_logits: torch.Tensor


@pytest.fixture(scope="module")
def prompt(exact: Any) -> list[int]:
    return exact.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=True
    )["input_ids"]


@pytest.fixture(scope="session")
def by_hand(reference: Any, float64_throughout: Any) -> Callable[[list[int]], dict[int, ByHand]]:
    """By layer, for a prompt; the states below a layer are shared between layers."""
    known: dict[tuple[int, ...], dict[int, ByHand]] = {}

    def evaluate(prompt: list[int]) -> dict[int, ByHand]:
        blocks, place = Blocks(reference), len(prompt) - 1
        found = {}
        with float64_throughout():
            states = blocks.embed(torch.tensor(prompt))
            for layer in LAYERS:
                logits = onwards(blocks, layer, states, place)[-1]
                token = int(logits.argmax())
                longer = torch.tensor([*prompt, token])
                next_logits = blocks.logits(longer, layer, [place], keep_kv=False)[-1]
                found[layer] = ByHand(logits, token, next_logits)
                states = blocks.run(layer, states)
        return found

    def once(prompt: list[int]) -> dict[int, ByHand]:
        if tuple(prompt) not in known:
            known[tuple(prompt)] = evaluate(prompt)
        return known[tuple(prompt)]

    return once


def onwards(blocks: Blocks, layer: int, states: torch.Tensor, place: int) -> torch.Tensor:
    states = blocks.again(layer, states, [place], keep_kv=False)
    for above in range(layer + 1, len(blocks.layers)):
        states = blocks.run(above, states)
    return blocks.unembed(states)


def test_logits_of_every_block_run_again(
    exact: Any,
    backend: str,
    prompt: list[int],
    by_hand: Callable[[list[int]], dict[int, ByHand]],
    float64_throughout: Callable[[], AbstractContextManager[None]],
) -> None:
    """The token after it reads the keys and values of the further run."""
    engine, expected = get_backend(backend), by_hand(prompt)
    told = {"rtol": 1e-8, "atol": 1e-8}
    row = torch.tensor([0])
    for layer in LAYERS:
        outputs: list[torch.Tensor] = []
        name = f"blocks.{layer}.hook_resid_post"
        hook = (name, lambda state, hook, outputs=outputs: outputs.append(state))
        cache, mask = engine.new_cache(exact, 1), torch.ones(1, len(prompt) + 1).long()
        with float64_throughout():
            with exact.hooks(fwd_hooks=[hook]):
                plain = engine.step(exact, torch.tensor([prompt]), mask[:, :-1], cache, 1)[0, 0]
            given = (mask[:, :-1], cache, row)
            state = engine.again(exact, layer, outputs[0][:, -1:], *given)
            logits = engine.onward(exact, layer + 1, state, *given)[0]
            token = torch.tensor([[expected[layer].token]])
            following = engine.step(exact, token, mask, cache, 1)[0, 0]
        torch.testing.assert_close(logits, expected[layer].logits, **told)
        torch.testing.assert_close(following, expected[layer].next_logits, **told)
        assert (logits - plain).abs().max() > 1e-3


def test_generation_recycles_at_every_block_in_one_batch(
    exact: Any,
    prompt: list[int],
    by_hand: Callable[[list[int]], dict[int, ByHand]],
    float64_throughout: Callable[[], AbstractContextManager[None]],
) -> None:
    expected = by_hand(prompt)
    with float64_throughout():
        (plain,) = generate(exact, [QUESTION], max_new_tokens=2, progress=False)
        word = plain.token_ids[0]
        conditions = [Condition((Recycle(layer, (word,)),)) for layer in LAYERS]
        requests = [Request(QUESTION, condition=each, max_new_tokens=2) for each in conditions]
        traces = generate(exact, requests, batch_size=30, progress=False)
    assert list(plain.prompt_ids) == prompt
    for layer, trace in zip(LAYERS, traces, strict=True):
        first = trace.events[0]
        assert (first["layer"], first["wanted"], first["emitted"]) == (
            layer,
            word,
            expected[layer].token,
        )
        assert trace.token_ids[0] == expected[layer].token
        if len(trace.events) == 1:
            assert trace.token_ids[1] == int(expected[layer].next_logits.argmax())
    assert any(trace.token_ids[0] != word for trace in traces)
    assert any(len(trace.events) == 1 for trace in traces)
