from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.information.across_problems.thought_gains import (
    ThoughtGains,
    answer_bits,
    gains_by_class,
    thought_gains,
)
from mi_lens.models.loading import load
from mi_lens.problems.answers import is_correct
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.states import segments
from mi_lens.traces.thoughts import Thought, split_thoughts
from mi_lens.traces.trace import Trace

ASKING = "\n</think>\n\nThe answer is \\boxed{"
TEXTS = [
    "Okay.\n\n12 * 7 is 84.\n\nWait, let me check.\n\nSo 84.\n</think>\n\nIt is \\boxed{84}.",
    "So\n\nAlternatively, swap the factors.",
]


@pytest.fixture(scope="module")
def traces(tokenizer):
    return [
        Trace.from_text(tokenizer, Problem(str(i), f"What is 12 * 7, {i}?", "84"), text)
        for i, text in enumerate(TEXTS)
    ]


def plain_bits(logits_of, tokenizer, trace, cut):
    """By one forward pass over prompt, cut trace, question and answer."""
    before = [*trace.prompt_ids, *trace.token_ids[:cut]]
    before += tokenizer.encode(ASKING, add_special_tokens=False)
    answer = tokenizer.encode(trace.problem.answer, add_special_tokens=False)
    p = logits_of(torch.tensor([[*before, *answer]]))[0].double().softmax(-1)
    probability = 1.0
    for i, token in enumerate(answer):
        probability *= float(p[len(before) + i - 1, token])
    closings = [i for i in range(len(tokenizer)) if tokenizer.decode([i]).startswith("}")]
    return -np.log2(probability * float(p[-1, closings].sum()))


@pytest.mark.parametrize("segment", [5, 512])
def test_agrees_with_whole_forward_passes(
    tiny_model, tokenizer, traces, checkpoint, reference, float64_throughout, monkeypatch, segment
):
    monkeypatch.setattr(segments, "SEGMENT", segment)
    theirs = reference(checkpoint("qwen2"))
    gains = thought_gains(tiny_model, traces, asking=ASKING)
    assert [gain.trace for gain in gains] == [trace.id for trace in traces]
    for gain, trace in zip(gains, traces, strict=True):
        thoughts = split_thoughts(tokenizer, trace)
        assert gain.thoughts == tuple(thoughts)
        assert gain.cuts == (0, thoughts[0].start - 1, *(t.stop for t in thoughts))
        with float64_throughout():
            expected = [
                plain_bits(lambda ids: theirs(ids).logits, tokenizer, trace, cut)
                for cut in gain.cuts
            ]
        np.testing.assert_allclose(gain.bits, expected, rtol=1e-9)
        assert sum(gain.gains) == pytest.approx(gain.bits[1] - gain.bits[-1])
        assert len(gain.gains) == len(thoughts)


def test_the_bridge_agrees(tiny_model, tiny_bridge, traces):
    ours = thought_gains(tiny_bridge, traces, asking=ASKING)
    theirs = thought_gains(tiny_model, traces, asking=ASKING)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.bits, b.bits, atol=1e-4)


def test_the_order_of_cuts_is_immaterial(tiny_model, traces):
    forward = answer_bits(tiny_model, traces[0], [0, 4, 9], asking=ASKING)
    backward = answer_bits(tiny_model, traces[0], [9, 0, 4], asking=ASKING)
    assert backward == (forward[2], *forward[:2])
    (alone,) = answer_bits(tiny_model, traces[0], [4], asking=ASKING)
    assert alone == pytest.approx(forward[1], rel=1e-9)


def test_classes_by_hand():
    def thought(kind):
        return Thought(kind, "x", 1, 2)

    gains = [
        ThoughtGains(
            "t", "a", (thought("execution"), thought("execution")), (), (9.0, 8.0, 6.0, 1.0)
        ),
        ThoughtGains(
            "u", "b", (thought("execution"), thought("reflection")), (), (9.0, 3.0, 4.0, 2.0)
        ),
    ]
    classes = gains_by_class(gains)
    execution = classes["execution"]
    assert execution.thoughts == 3
    assert execution.bits.mean == pytest.approx(((2 + 5) / 2 + -1) / 2)  # problems weigh alike
    p_a, p_b = (2**-1 - 2**-8) / 2, 2**-4 - 2**-3
    assert execution.probability.mean == pytest.approx((p_a + p_b) / 2)
    assert execution.loss.mean == 0.5
    assert classes["reflection"].bits.mean == 2
    assert classes["reflection"].bits.low is None
    assert classes["transition"].bits.mean is None
    assert classes["transition"].thoughts == 0


def test_errors(tiny_model, tokenizer, traces):
    with pytest.raises(ValueError, match="expected 0 to"):
        answer_bits(tiny_model, traces[0], [999])
    with pytest.raises(ValueError, match="has no gold answer"):
        thought_gains(tiny_model, [replace(traces[0], problem=None)])
    with pytest.raises(ValueError, match="expected the beginning of some token"):
        thought_gains(tiny_model, traces, closing="\U0001f600\U0001f600")
    long = Trace.from_text(tokenizer, traces[0].problem, "So\n\n" + "12 * 7 = 84 " * 40)
    with pytest.raises(ValueError, match="the model's context 256"):
        thought_gains(tiny_model, [long])
    silent = Trace.from_text(tokenizer, traces[0].problem, "no boundary")
    assert thought_gains(tiny_model, [silent]) == []


@pytest.mark.slow
def test_the_pocket_reasoner_knows_what_it_will_answer():
    """At the end of right traces nothing is left to know; at their start nearly all is."""
    model = load("pocket-reasoner")
    traces = generate(model, load_problems("pocket", limit=20), batch_size=20, progress=False)
    right = [t for t in traces if t.problem and is_correct(t.text, t.problem.answer)]
    gains = thought_gains(model, right, asking=".\n</think>\n\nThe result is \\boxed{")
    assert np.mean([gain.bits[-1] for gain in gains]) < 0.1
    assert np.mean([gain.bits[0] for gain in gains]) > 5
    execution = gains_by_class(gains)["execution"].bits
    assert execution.low is not None
    assert execution.low > 0
