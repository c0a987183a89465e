"""States of one hook name after another: the same states, and a bound on their memory."""

from collections import Counter

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.states import by_hook, segments
from mi_lens.states.by_hook import passes, states_by_hook
from mi_lens.states.capture import capture
from tests.live_bytes import LiveBytes

KINDS = ("hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
NAMES = [f"blocks.{layer}.{kind}" for layer in (2, 0, 1) for kind in KINDS]


@pytest.fixture(scope="module")
def trace(tiny_model):
    return generate(tiny_model, ["What is 12 * 7?"], max_new_tokens=180, progress=False)[0]


@pytest.mark.parametrize("per_pass", [1, 4, 15])
def test_states_and_the_memory_that_they_take(tiny_model, trace, monkeypatch, per_pass):
    """Beyond what reading takes, memory holds the states of as many hook names as are allowed."""
    monkeypatch.setattr(segments, "SEGMENT", 64)
    of_hook = len(trace) * 32 * 8
    (expected,) = capture(tiny_model, [trace], NAMES)
    peaks, reads = {}, Counter()
    read = segments.read_in_segments

    def counted(*args, **settings):
        reads[held] += 1
        return read(*args, **settings)

    monkeypatch.setattr(segments, "read_in_segments", counted)
    for held in (1, per_pass):
        monkeypatch.setattr(by_hook, "HELD", held * of_hook + of_hook // 2)
        reads[held], names = 0, []
        with LiveBytes() as memory:
            for name, states in states_by_hook(tiny_model, trace, NAMES):
                assert torch.equal(states, expected[name])
                names.append(name)
                del states
            assert memory.now == 0
        peaks[held] = memory.peak
        assert names == NAMES
    assert peaks[per_pass] - peaks[1] == (per_pass - 1) * of_hook
    assert reads[per_pass] == 1 + -(-len(NAMES) // per_pass)  # one token tells the widths


def test_36_layers_of_16k_steps_take_five_passes():
    names = {f"blocks.{layer}.hook_resid_post": 4096 for layer in range(36)}
    groups = passes(names, 16_384 * torch.bfloat16.itemsize)
    assert [len(group) for group in groups] == [8, 8, 8, 8, 4]
    assert [name for group in groups for name in group] == list(names)
    assert passes({"wide": by_hook.HELD, "narrow": 1}, 2) == [["wide"], ["narrow"]]
