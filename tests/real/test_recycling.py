"""Recycling at each block of a pretrained model, against Hugging Face's layers run by hand."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.models.backends.lookup import get_backend
from mi_lens.models.loading import load_tokenizer
from tests.models.backends.test_running_again import Blocks

pytestmark = pytest.mark.real
QUESTION = "Two and three are"
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


@pytest.fixture(scope="session")
def prompt(file: Path) -> list[int]:
    """The question alone, because whole sequences are run by hand 60 times."""
    del file
    return load_tokenizer("smollm2").encode(QUESTION)


@pytest.fixture(scope="session")
def by_hand(
    reference: Any, prompt: list[int], float64_throughout: Callable[[], AbstractContextManager]
) -> list[ByHand]:
    """By layer."""
    blocks, place = Blocks(reference), len(prompt) - 1

    @cache
    def below(layer: int, tokens: tuple[int, ...]) -> torch.Tensor:
        """The states that a block reads; layers share them."""
        if layer == 0:
            return blocks.embed(torch.tensor(tokens))
        return blocks.run(layer - 1, below(layer - 1, tokens))

    def last_logits(layer: int, tokens: tuple[int, ...]) -> torch.Tensor:
        states = blocks.again(layer, below(layer, tokens), [place], keep_kv=False)
        for above in LAYERS[layer + 1 :]:
            states = blocks.run(above, states)
        return blocks.unembed(states[-1:])[0]

    found = []
    with float64_throughout():
        for layer in LAYERS:
            logits = last_logits(layer, tuple(prompt))
            token = int(logits.argmax())
            found.append(ByHand(logits, token, last_logits(layer, (*prompt, token))))
    return found


def test_logits_of_every_block_run_again(
    exact: Any,
    backend: str,
    prompt: list[int],
    by_hand: list[ByHand],
    float64_throughout: Callable[[], AbstractContextManager[None]],
) -> None:
    """The token after it reads the keys and values of the further run."""
    engine = get_backend(backend)
    told: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
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
            token = torch.tensor([[by_hand[layer].token]])
            following = engine.step(exact, token, mask, cache, 1)[0, 0]
        torch.testing.assert_close(logits, by_hand[layer].logits, **told)
        torch.testing.assert_close(following, by_hand[layer].next_logits, **told)
        assert (logits - plain).abs().max() > 1e-3


def test_generation_recycles_at_every_block_in_one_batch(
    exact: Any,
    prompt: list[int],
    by_hand: list[ByHand],
    float64_throughout: Callable[[], AbstractContextManager[None]],
) -> None:
    asked: dict[str, Any] = {"style": "raw", "max_new_tokens": 2}
    with float64_throughout():
        (plain,) = generate(exact, [Request(QUESTION, **asked)], progress=False)
        word = plain.token_ids[0]
        conditions = [Condition((Recycle(layer, (word,)),)) for layer in LAYERS]
        requests = [Request(QUESTION, condition=each, **asked) for each in conditions]
        traces = generate(exact, requests, batch_size=30, progress=False)
    assert list(plain.prompt_ids) == prompt
    for layer, trace in zip(LAYERS, traces, strict=True):
        first = trace.events[0]
        assert (first["layer"], first["wanted"], first["emitted"]) == (
            layer,
            word,
            by_hand[layer].token,
        )
        assert trace.token_ids[0] == by_hand[layer].token
        if len(trace.events) == 1:
            assert trace.token_ids[1] == int(by_hand[layer].next_logits.argmax())
    assert any(trace.token_ids[0] != word for trace in traces)
    assert any(len(trace.events) == 1 for trace in traces)
