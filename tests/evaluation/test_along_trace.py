"""What asking and continuing along a trace say, as numbers on its steps."""

from dataclasses import replace

import numpy as np
import pytest

from mi_lens.common.intervals import estimate_share
from mi_lens.evaluation.along_trace import belief_lines, effects_along
from mi_lens.traces.thoughts import split_thoughts
from tests.evaluation.along import a_belief, resampled, rollouts_at
from tests.report.conftest import THOUGHTS, a_trace


@pytest.fixture(scope="module")
def trace(tokenizer):
    return a_trace(tokenizer, THOUGHTS * 2, "What is 12 * 7 - 5?")


def test_beliefs_are_probabilities_at_the_cuts(trace):
    belief = a_belief(trace)
    lines = belief_lines(belief)
    assert [(line.name, line.answer) for line in lines] == [("gold", "79"), ("final", "81")]
    for line, of_answer in zip(lines, (belief.gold, belief.final), strict=True):
        assert of_answer is not None
        np.testing.assert_allclose(line.probabilities, 2.0 ** -np.array(of_answer.bits))
    assert belief_lines(replace(belief, gold=None, final=None)) == ()


def test_one_answer_has_one_line(trace):
    (line,) = belief_lines(a_belief(trace, final="79"))
    assert (line.name, line.answer) == ("gold and final", "79")


def test_an_effect_is_success_with_it_less_success_without_it(trace, tokenizer):
    thought = split_thoughts(tokenizer, trace)[1]
    others = replace(rollouts_at(trace, 3), trace="another")
    unknown = replace(resampled(trace, thought), importance=None)
    token, of_thought = effects_along(
        trace.id, [rollouts_at(trace, 3), others], [resampled(trace, thought), unknown]
    )
    assert (token.start, token.stop) == (3, 4)
    assert (of_thought.start, of_thought.stop) == (thought.start, thought.stop)
    # Newcombe's method 10 for 6 of 8 against 2 of 8.
    shares = (estimate_share([1.0] * n + [0.0] * (8 - n)) for n in (6, 2))
    (mean, low, high), (other, below, above) = (
        np.array([share.mean, share.low, share.high], dtype=float) for share in shares
    )
    down, up = np.hypot(mean - low, above - other), np.hypot(high - mean, other - below)
    for effect in (token, of_thought):
        found = (effect.effect.mean, effect.effect.low, effect.effect.high)
        assert found == pytest.approx((0.5, 0.5 - down, 0.5 + up))
