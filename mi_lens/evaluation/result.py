"""What became of one problem under one condition."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

CAPPED = ("length", "context")


@dataclass(frozen=True)
class Result:
    """One problem under one condition with one seed.

    Attributes:
        problem: The problem's id.
        source: Where the problem came from.
        level: Its difficulty, where the source has one.
        condition: Name of the condition.
        seed: Of the sampling.
        trace: Id of the trace.
        answer: As extracted from the text; None where the text has none.
        correct: Whether the answer is the gold answer, or passes the problem's tests.
        graded_by: The method that decided (`mi_lens.problems.grading.grader.Method`).
        tokens: Number of generated tokens.
        thoughts: Number of each class, inside the think block; None for a tokenizer without
            blank-line tokens.
        stop_reason: Why the generation ended.
        seconds: Its share of its batches' time; None where this was not measured.
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
    """The results of the problems that have `each` of them, all they will have; in order."""
    by_problem: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_problem.setdefault(result.problem_key, []).append(result)
    whole = [of_problem for of_problem in by_problem.values() if len(of_problem) == each]
    return [result for of_problem in whole for result in of_problem]


def result_from_table(row: dict[str, Any]) -> Result:
    """A result from a row of results.parquet, where each class of thoughts is a column."""
    prefix = "thoughts."
    thoughts = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
    plain = {k: v for k, v in row.items() if not k.startswith(prefix)}
    counted = thoughts and None not in thoughts.values()
    return Result(**{**plain, "thoughts": thoughts if counted else None})
