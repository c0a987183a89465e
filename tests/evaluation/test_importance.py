import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.evaluation.importance import Outcome, importance, outcome_of
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace

RIGHT, WRONG, NONE = Outcome("7", True), Outcome("8", False), Outcome(None, False)


def test_the_thought_decides_all():
    found = importance([RIGHT] * 8, [WRONG] * 8)
    assert found.accuracy == 1
    assert found.variation == 1
    # Shares (8 + 1) / 10 and 1 / 10.
    assert found.divergence == pytest.approx(0.9 * np.log2(9) - 0.1 * np.log2(9))
    assert found.value("divergence") > 1.5
    assert (found.kept, found.without) == (8, 8)


def test_the_thought_decides_nothing():
    found = importance([RIGHT] * 8, [RIGHT] * 5)
    assert found.divergence == found.divergence_by_chance == found.variation == 0
    assert found.accuracy == 0


def test_no_answer_is_an_answer_of_its_own():
    assert importance([RIGHT] * 8, [NONE] * 8).variation == 1
    assert importance([NONE] * 8, [WRONG] * 8).accuracy == 0


def test_chance_alone_is_taken_off():
    """Two samples of one distribution differ; beyond chance they do not on average."""
    rng = np.random.default_rng(0)
    answers = [Outcome(str(i), i == 0) for i in range(4)]

    def draw(n):
        return [answers[i] for i in rng.choice(4, n, p=[0.5, 0.3, 0.1, 0.1])]

    found = [importance(draw(12), draw(6)) for _ in range(400)]
    for measure in ("divergence", "variation"):
        assert np.mean([getattr(one, measure) for one in found]) > 0.1
        beyond = np.array([one.value(measure) for one in found])
        assert abs(beyond.mean()) < 4 * beyond.std() / 20


outcomes = st.lists(st.sampled_from([RIGHT, WRONG, NONE]), min_size=1, max_size=10)


@settings(deadline=None, max_examples=40)
@given(outcomes, outcomes)
def test_agrees_with_counting(kept, without):
    found = importance(kept, without)
    answers = {one.answer for one in (*kept, *without)}
    divergence = variation = 0.0
    for answer in answers:
        p, q = (
            (sum(one.answer == answer for one in each) + 1) / (len(each) + len(answers))
            for each in (kept, without)
        )
        divergence += q * np.log2(q / p)
        shares = [np.mean([one.answer == answer for one in each]) for each in (kept, without)]
        variation += abs(shares[0] - shares[1]) / 2
    assert found.divergence == pytest.approx(divergence, abs=1e-12)
    assert found.variation == pytest.approx(variation, abs=1e-12)
    assert found.divergence >= -1e-12
    rates = [np.mean([one.correct for one in each]) for each in (kept, without)]
    assert found.accuracy == pytest.approx(rates[0] - rates[1])
    assert importance(kept, without) == found


def test_outcomes_of_traces():
    problem = Problem("0", "What is 1/2?", "0.5")

    def of(text):
        return outcome_of(Trace.from_text(None, problem, text))

    assert of("So \\boxed{\\frac12}.") == of("So \\boxed{0.5}.") == Outcome("0.5", True)
    assert of("So \\boxed{$7$}.") == of("So \\boxed{7.}") == Outcome("7", False)
    assert of("So what") == Outcome(None, False)


def test_errors():
    with pytest.raises(ValueError, match="1 outcomes with the thought and 0 without"):
        importance([RIGHT], [])
