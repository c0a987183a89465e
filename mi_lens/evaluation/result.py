"""What became of one problem under one condition."""

from collections.abc import Iterable
from dataclasses import dataclass

CAPPED = ("length", "context")


@dataclass(frozen=True)
class Result:
    """One problem under one condition with one seed.

    Attributes:
        problem: Its id.
        source: Where the problem came from.
        level: Its difficulty, where the source has one.
        condition: Name of the condition.
        seed: Of the sampling.
        trace: Id of the trace.
        answer: As extracted from the text; None where there is none.
        correct: Whether it is the gold answer, or passes the problem's tests.
        graded_by: What decided (`mi_lens.problems.grading.grader.Method`).
        tokens: Generated.
        thoughts: By class, inside the think block; None for a tokenizer without blank-line tokens.
        stop_reason: Why the generation ended.
        seconds: Its share of the time that its batches took; None where it was not measured.
    """

    problem: str
    source: str
    level: str | None
    condition: str
    seed: int
    trace: str
    answer: str | None
    correct: bool
    graded_by: str
    tokens: int
    thoughts: dict[str, int] | None
    stop_reason: str
    seconds: float | None

    @property
    def problem_key(self) -> tuple[str, str]:
        """Its problem's source and id, which name the problem among results."""
        return self.source, self.problem

    @property
    def capped(self) -> bool:
        """Whether the budget or the context cut it off."""
        return self.stop_reason in CAPPED


def whole_problems(results: Iterable[Result], each: int) -> list[Result]:
    """The results of the problems that have as many as they will have, in their order."""
    by_problem: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_problem.setdefault(result.problem_key, []).append(result)
    whole = (group for group in by_problem.values() if len(group) == each)
    return [result for group in whole for result in group]
