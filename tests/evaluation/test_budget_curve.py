from dataclasses import replace

import pytest

from mi_lens.evaluation.budget_curve import FINAL_ANSWER, budget_curve, continue_traces, vote_curve
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.models.loading import load
from mi_lens.problems.answers import boxed_answer
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace

CLOSE = "\n</think>\n\nThe result is \\boxed{"


@pytest.fixture(scope="module")
def pocket():
    model = load("pocket-reasoner", device="cpu")
    problems = load_problems("pocket", limit=6, seed=5)
    return model, generate(model, problems, max_new_tokens=400, progress=False)


def test_cut_traces_are_what_a_smaller_budget_gives(pocket):
    model, traces = pocket
    problems = [trace.problem for trace in traces]
    budgets = (20, 120, 400)
    curve = budget_curve(model, traces, budgets, final=None)
    for budget, row, spent in zip(budgets, curve.correct, curve.tokens, strict=True):
        short = generate(model, problems, max_new_tokens=budget, progress=False)
        assert row == tuple(
            boxed_answer(t.text) == p.answer for t, p in zip(short, problems, strict=True)
        )
        assert spent == tuple(map(len, short))
    assert sum(curve.correct[-1]) > sum(curve.correct[0]) == 0
    assert [e.n for e in curve.accuracy()] == [6, 6, 6]
    assert curve.mean_tokens() == [sum(s) / 6 for s in curve.tokens]


def test_a_final_answer_is_asked_of_what_was_cut(pocket):
    model, traces = pocket
    curve = budget_curve(model, traces, [60, 400], final=CLOSE)
    ids = model.tokenizer.encode(CLOSE, add_special_tokens=False)
    for i, trace in enumerate(traces):
        assert len(trace) > 60
        prefix = (*trace.token_ids[:60], *ids)
        request = Request(trace.problem, max_new_tokens=len(prefix) + 16, prefix=prefix)
        (asked,) = generate(model, [request], progress=False)
        assert curve.correct[0][i] == (boxed_answer(asked.text) == trace.problem.answer)
    assert curve.correct[1] == tuple(boxed_answer(t.text) == t.problem.answer for t in traces)
    # Here nothing is cut, so nothing is asked.
    assert budget_curve(model, traces, [400], final=CLOSE).correct == curve.correct[1:]


def test_the_papers_own_final_answer_runs(pocket):
    model, traces = pocket
    assert len(budget_curve(model, traces, [30], final=FINAL_ANSWER).correct[0]) == 6


def test_traces_go_on_from_a_word(pocket):
    model, traces = pocket
    longer = continue_traces(model, traces, "Wait", 420, condition=Condition((Recycle(2, ["So"]),)))
    word = tuple(model.tokenizer.encode(" Wait", add_special_tokens=False))
    for old, new in zip(traces, longer, strict=True):
        assert new.token_ids[: len(old) - 1] == old.token_ids[:-1]
        assert new.token_ids[len(old) - 1 :][: len(word)] == word
        assert len(old) < len(new) <= 420
        assert new.problem == old.problem
    assert continue_traces(model, longer, "Wait", 200) == longer


def sample(answers, length=10):
    problem = Problem("p", "q", "7")
    text = "\\boxed{{{}}}"
    return [
        Trace(
            str(i),
            "m",
            "p",
            (1,),
            (5,) * length,
            text.format(a) if a else "",
            "eos",
            problem=problem,
        )
        for i, a in enumerate(answers)
    ]


def test_votes_at_equal_tokens():
    samples = [sample(["3", "7", "7"]), sample(["7", "3", "3"]), sample([None, "7"])]
    curve = vote_curve(samples, [35, 9, 10, 25])
    assert curve.budgets == (9, 10, 25, 35)
    assert curve.correct == (
        (False, False, False),
        (False, True, False),
        (False, True, True),
        (True, False, True),
    )
    assert curve.tokens == ((0, 0, 0), (10, 10, 10), (20, 20, 20), (30, 30, 20))


def test_bad_input(pocket):
    model, traces = pocket
    with pytest.raises(ValueError, match=r"budgets=\[\]"):
        budget_curve(model, traces, [])
    with pytest.raises(ValueError, match=r"budgets=\[0\]"):
        vote_curve([], [0])
    with pytest.raises(ValueError, match="has no problem"):
        budget_curve(model, [replace(traces[0], problem=None)], [5])
