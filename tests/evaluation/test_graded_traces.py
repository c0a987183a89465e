import pytest

from mi_lens.evaluation.comparison import compare
from mi_lens.evaluation.graded_traces import arm_of_traces, grade_trace
from mi_lens.evaluation.table import report, report_table
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace

PROBLEMS = [Problem(str(i), f"What is {i} + 2?", str(i + 2)) for i in range(6)]


def arm(name, texts, labels, tokenizer=None):
    traces = [
        Trace.from_text(tokenizer, p, text, condition=name, is_correct=label, think_open=True)
        for p, text, label in zip(PROBLEMS, texts, labels, strict=True)
    ]
    return arm_of_traces(traces, tokenizer, {}, labels="author")


def test_text_alone_is_graded_by_us_or_by_its_author():
    text = "So\n\nWait, 2</think>\\boxed{2}"
    trace = Trace.from_text(None, PROBLEMS[0], text, is_correct=False)
    graded = grade_trace(trace, None)
    assert (graded.correct, graded.answer, graded.tokens) == (True, "2", None)
    assert graded.thoughts == {"execution": 0, "reflection": 1, "transition": 0}
    judged = grade_trace(trace, None, labels="author")
    assert (judged.correct, judged.answer, judged.graded_by) == (False, None, "author")
    with pytest.raises(ValueError, match=r"text alone, without tokens to count"):
        _ = judged.length
    unlabelled = Trace.from_text(None, PROBLEMS[0], text)
    with pytest.raises(ValueError, match="has no label of its author"):
        grade_trace(unlabelled, None, labels="author")
    needless = Trace.from_text(None, Problem("q", "Why?", ""), "So", is_correct=True)
    assert grade_trace(needless, None, labels="author").correct


def test_arms_of_text_alone_are_compared(tokenizer):
    cut, whole = "So\n\nHmm", "So\n\nWait</think>4"
    before = arm("long", [cut] * 2 + [whole] * 4, [False, False, True, True, False, True])
    after = arm("short", [whole] * 6, [True, True, True, False, False, True])
    compared = compare(after, before)
    assert (compared.mended, compared.broken) == (2, 1)
    assert (compared.tokens.mean, compared.within) == (None, {})
    assert compared.split["capped before"].n == 2  # never closed its think block
    assert compared.split["finished before"].n == 4
    assert before.tokens().mean is None
    for shown in (report([after], before), report_table([after], before), repr(compared)):
        assert "long" in shown
    counted = compare(
        arm("short", [whole] * 6, [True] * 6, tokenizer),
        arm("long", [cut] * 6, [True] * 6, tokenizer),
    )
    assert counted.tokens.mean is not None
    assert counted.within
