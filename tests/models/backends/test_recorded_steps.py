"""Steps that are recorded and replayed, beside the same steps run as usual.

What a CUDA graph does is done here by `tests.recorder`, on a CPU; no GPU is used.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.backends import positions
from mi_lens.models.backends.lookup import available, get_backend
from tests.models.backends.test_faster_parts import batch
from tests.recorder import record

pytestmark = pytest.mark.skipif(
    "hooked" not in available(), reason="this TransformerLens has no HookedTransformer"
)
EXACT = {"rtol": 0, "atol": 1e-12}
OUTPUT = "blocks.1.hook_resid_post"
PROMPTS = ["What is 12 * 7 - 5?", "Hi", "So let me think. What is 3?"]


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps are recorded, and read a multiple of 8 places; has an entry for each recording."""
    made: list[int] = []

    def counted(run: Callable[[], Tensor]) -> Any:
        made.append(len(made))
        return record(run)

    monkeypatch.setitem(positions.PLACES, "cpu", 8)
    monkeypatch.setattr("mi_lens.models.backends.hooked.recorder_for", lambda device: counted)
    return made


def decoded(model: Any, steps: int = 4) -> Tensor:
    """Logits of single steps after a padded prompt."""
    backend = get_backend("hooked")
    tokens, mask = batch()
    first = tokens.shape[1] - steps
    cache = backend.new_cache(model, len(tokens))
    with torch.inference_mode():
        backend.step(model, tokens[:, :first], mask[:, :first], cache, 0)
        logits = [
            backend.step(model, tokens[:, end - 1 : end], mask[:, :end], cache, 1)
            for end in range(first + 1, tokens.shape[1] + 1)
        ]
    return torch.cat(logits, dim=1)


def test_every_architecture_decodes_as_usual(
    architecture: str, float64_model: Any, recordings: list[int]
) -> None:
    tokens, mask = batch()
    whole = get_backend("hooked").forward(float64_model, tokens, mask)
    torch.testing.assert_close(decoded(float64_model), whole[:, -4:], rtol=0, atol=1e-10)
    assert recordings


@pytest.fixture
def float64_model(architecture: str, checkpoint: Any) -> Any:
    from mi_lens.models.loading import load

    return load(checkpoint(architecture), backend="hooked", dtype="float64", device="cpu")


def requests(steps: int = 20) -> list[Request]:
    vector = torch.linspace(-1, 1, 32, dtype=torch.float64)
    words = tuple(range(40, 90))
    conditions = [
        Condition(name="baseline"),
        Condition((Suppress(words),)),
        Condition((Steer(vector, OUTPUT, at=words, inside_think=False),)),
        Condition((Recycle(2, words),)),
        Condition((Recycle(1, words, trigger="consumed", passes=2, kv="keep"),)),
        Condition((Recycle(1, words, trigger="consumed"),)),
        Condition((Recycle((0, 2), words, damping=0.5),)),
        Condition((Recycle((0, 1), words, trigger="consumed"),)),
    ]
    return [
        Request(prompt, condition, max_new_tokens=steps + 3 * i)
        for prompt in PROMPTS
        for i, condition in enumerate(conditions)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_conditions_and_newcomers_change_no_token(
    tiny_model: Any, recordings: list[int], monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mi_lens.models.backends.hooked.recorder_for", lambda device: None)
        patch.setitem(positions.PLACES, "cpu", 1)
        usual = generate(tiny_model, requests(), batch_size=batch_size, progress=False)
    assert not recordings
    replayed = generate(tiny_model, requests(), batch_size=batch_size, progress=False)
    assert [trace.token_ids for trace in replayed] == [trace.token_ids for trace in usual]
    assert [trace.events for trace in replayed] == [trace.events for trace in usual]
    assert {event["what"] for trace in usual for event in trace.events} == {
        "logits",
        "steer",
        "recycle",
    }
    assert recordings


def test_hooked_places_cut_a_step_and_hooks_keep_what_they_saw(
    tiny_model: Any, recordings: list[int]
) -> None:
    kept: list[Tensor] = []

    def halve(state: Tensor, hook: Any) -> Tensor:
        kept.append(state)  # Not a copy: a replay must not write into it.
        return state / 2

    hooks = [("blocks.0.hook_resid_post", halve), ("blocks.2.hook_resid_pre", halve)]
    with tiny_model.hooks(fwd_hooks=hooks):
        tokens, mask = batch()
        whole = get_backend("hooked").forward(tiny_model, tokens, mask)
        seen, kept[:] = list(kept), []
        logits = decoded(tiny_model, steps=1)
        assert len(recordings) == 1 + 3  # The positions, and three pieces.
        torch.testing.assert_close(logits, whole[:, -1:], rtol=0, atol=1e-10)
        kept.clear()
        decoded(tiny_model, steps=3)
    for step in range(3):
        for place in range(2):
            state = kept[2 + 2 * step + place]
            torch.testing.assert_close(state, seen[place][:, step - 3 :][:, :1], **EXACT)


def test_a_hook_inside_a_block_fires(tiny_model: Any, recordings: list[int]) -> None:
    hook = ("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern.flip(1))
    with tiny_model.hooks(fwd_hooks=[hook]):
        tokens, mask = batch()
        whole = get_backend("hooked").forward(tiny_model, tokens, mask)
        torch.testing.assert_close(decoded(tiny_model), whole[:, -4:], rtol=0, atol=1e-10)
    assert (decoded(tiny_model) - whole[:, -4:]).abs().max() > 1e-3


def test_a_step_is_recorded_anew_only_where_it_must(
    fresh_model: Any, recordings: list[int]
) -> None:
    backend = get_backend("hooked")
    tokens = torch.randint(6, 384, (2, 40))
    cache = backend.new_cache(fresh_model, 2)

    def step(end: int) -> Tensor:
        mask = torch.ones(2, end, dtype=torch.long)
        return backend.step(fresh_model, tokens[:, end - 1 : end], mask, cache, 1)

    with torch.inference_mode():
        backend.step(fresh_model, tokens[:, :8], torch.ones(2, 8, dtype=torch.long), cache, 0)
        step(9)
        assert len(recordings) == 2
        for end in range(10, 17):
            step(end)
        assert len(recordings) == 2
        step(17)  # More places are read.
        assert len(recordings) == 4
        attention = fresh_model.blocks[0].attn
        attention.W_Q.data.mul_(2)  # The recording reads the new values.
        step(18)
        assert len(recordings) == 4
        attention.W_O = torch.nn.Parameter(attention.W_O.data * 2, requires_grad=False)
        logits = step(19)
        assert len(recordings) == 6
        backend.crop(cache, 18)
    usual = backend.step(fresh_model, tokens[:, 18:19], torch.ones(2, 19, dtype=torch.long), cache)
    torch.testing.assert_close(logits, usual, **EXACT)


@pytest.fixture
def fresh_model(checkpoint: Any) -> Any:
    from mi_lens.models.loading import load

    return load(checkpoint("qwen2"), backend="hooked", dtype="float64", device="cpu")
