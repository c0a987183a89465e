import pytest

from mi_lens.problems.problem import Problem
from mi_lens.traces.correctness import author_label, known_correctness
from mi_lens.traces.trace import Trace


def test_who_says_that_an_answer_is_right():
    solved, unknown = Problem("p", "What is 2 + 2?", "4"), Problem("q", "Why?", "")
    trace = Trace.from_text(None, solved, "\\boxed{4}", is_correct=False)
    assert known_correctness(trace) is True
    assert known_correctness(trace, "author") is False
    assert author_label(trace) is False
    silent = Trace.from_text(None, unknown, "\\boxed{4}")
    assert known_correctness(silent) is None
    assert known_correctness(silent, "author") is None
    with pytest.raises(ValueError, match=f"trace {silent.id} has no label of its author"):
        author_label(silent)
