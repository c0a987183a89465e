"""Whether a trace's answer is right, as our grader says or as the text's author does."""

from typing import Literal, get_args

from mi_lens.problems.grading.grader import grade
from mi_lens.traces.trace import Trace

Labels = Literal["grader", "author"]


def known_correctness(trace: Trace, labels: Labels = "grader") -> bool | None:
    """Whether a trace's answer is right; None if there is nothing to tell it by.

    Args:
        trace: The trace.
        labels: "grader" compares its answer with the problem's gold answer or runs its tests;
            "author" takes `Trace.is_correct`.

    Raises:
        ValueError: If `labels` is neither.
    """
    if labels not in get_args(Labels):
        raise ValueError(f"labels={labels!r}: expected one of {get_args(Labels)}")
    if labels == "author":
        return trace.is_correct
    problem = trace.problem
    if problem is None or not (problem.answer or problem.tests):
        return None
    return grade(trace.text, problem).correct


def author_label(trace: Trace) -> bool:
    """The author's label of a trace that must have one.

    Raises:
        ValueError: If it has none.
    """
    if trace.is_correct is None:
        raise ValueError(
            f"trace {trace.id} has no label of its author; import it with is_correct, or use "
            "labels='grader'"
        )
    return trace.is_correct
