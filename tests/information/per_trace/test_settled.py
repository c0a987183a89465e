import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.information.per_trace.belief import AnswerBelief, Belief
from mi_lens.information.per_trace.settled import settled, settled_summary


def belief_of(said, bits=None, final: str | None = "84", trace="t", problem: str | None = "p"):
    count = len(said)
    bits = bits or [1.0] * count
    answer = AnswerBelief(final, tuple(bits), (1,) * count, (1,) * count) if final else None
    return Belief(trace, problem, tuple(range(0, 10 * count, 10)), None, answer, tuple(said))


@pytest.mark.parametrize(
    ("said", "when", "step"),
    [
        (["84", "84", "84"], "from the start", 0),
        (["84", "8", "84"], "later", 20),
        (["8", "84", "84"], "later", 10),
        (["8", "84", "8"], "never", None),
        (["8", "84", None], "never", None),
        (["8", "\\text{84}", "84"], "later", 10),  # the same answer in another notation
    ],
)
def test_by_what_the_model_would_say(said, when, step):
    found = settled(belief_of(said))
    assert (found.when, found.step) == (when, step)
    if step is None:
        assert found.tokens_after is found.share_after is None
    else:
        assert (found.tokens_after, found.share_after) == (20 - step, (20 - step) / 20)


def test_by_probability():
    belief = belief_of(["1", "1", "1"], bits=[0.5, 3.0, 1.0])
    assert settled(belief, 0.1).when == "from the start"
    assert settled(belief, 0.5).step == 20  # 2^-1 reaches it
    assert settled(belief, 0.51).when == "never"
    for threshold in (0, 1.5, -1.0):
        with pytest.raises(ValueError, match="expected a probability above 0"):
            settled(belief, threshold)


def test_without_an_answer_or_without_thinking():
    assert settled(belief_of(["1"], final=None)).when == "no final answer"
    at_once = settled(belief_of(["84"]))
    assert (at_once.step, at_once.tokens_after, at_once.share_after) == (0, 0, None)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_every_cut_from_the_step_on_holds_and_the_one_before_does_not(holds):
    belief = belief_of(["84" if held else "8" for held in holds])
    found = settled(belief)
    places = [i for i in range(len(holds)) if all(holds[i:])]
    assert found.step == (belief.cuts[places[0]] if places else None)


def test_a_summary_is_of_problems():
    beliefs = [
        belief_of(["84", "84", "84"], trace="a", problem="p"),
        belief_of(["8", "8", "8"], trace="b", problem="p"),
        belief_of(["8", "84", "84"], trace="c", problem="q"),
        belief_of(["8", "84", "84"], trace="d", problem=None),
        belief_of(["8", "84", "84"], trace="e", problem=None),
        belief_of(["8"], final=None, trace="f", problem="r"),
        belief_of(["84"], trace="g", problem="s"),
    ]
    summary = settled_summary(beliefs)
    assert summary.traces == {
        "from the start": 2,
        "later": 3,
        "never": 1,
        "no final answer": 1,
    }
    assert summary.tokens_after.mean == pytest.approx((10 + 10 + 10 + 10) / 4)
    assert summary.share_after.n == 4
    assert summary.share_after.mean == pytest.approx(0.5)
    assert settled_summary([]).share_after.mean is None
