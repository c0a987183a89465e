"""The result of one problem under one condition."""

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
        level: The problem's difficulty; None if the source gives none.
        condition: Name of the condition.
        seed: Sampling seed.
        trace: Id of the trace.
        answer: The answer extracted from the text; None if the text has none.
        correct: Whether the answer is the gold answer, or passes the problem's tests.
        graded_by: The method that decided (`mi_lens.problems.grading.grader.Method`), or
            "author" if the text's author did.
        tokens: Number of generated tokens; None for text alone.
        thoughts: Number of thoughts per class, inside the think block; None if the tokenizer
            writes no line ends.
        stop_reason: Why the generation ended.
        seconds: The generation's share of the time of its batches; None if it was not measured.
        forward_passes: What the generation cost beyond its prompt, in forward passes of one token
            through all blocks: its tokens, blocks that ran again as their share of all blocks, and
            tokens that were tried and thrown away. None for text alone.
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
    tokens: int | None
    thoughts: dict[str, int] | None
    stop_reason: str
    seconds: float | None
    forward_passes: float | None = None

    @property
    def problem_key(self) -> tuple[str, str]:
        """The problem's source and id, which together identify it among results."""
        return self.source, self.problem

    @property
    def length(self) -> int:
        """The number of tokens; a ValueError for text alone."""
        if self.tokens is None:
            raise ValueError(
                f"trace {self.trace} is text alone, without tokens to count; import it with a "
                "tokenizer"
            )
        return self.tokens

    @property
    def capped(self) -> bool:
        """Whether the generation was cut off by the budget or the context length."""
        return self.stop_reason in CAPPED


def whole_problems(results: Iterable[Result], each: int) -> list[Result]:
    """The results of finished problems, in order; a problem is finished with `each` results."""
    by_problem: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        by_problem.setdefault(result.problem_key, []).append(result)
    whole = [of_problem for of_problem in by_problem.values() if len(of_problem) == each]
    return [result for of_problem in whole for result in of_problem]


def result_from_table(row: dict[str, Any]) -> Result:
    """A result from a row of results.parquet, which has one column per class of thoughts."""
    prefix = "thoughts."
    thoughts = {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
    plain = {k: v for k, v in row.items() if not k.startswith(prefix)}
    counted = thoughts and None not in thoughts.values()
    return Result(**{**plain, "thoughts": thoughts if counted else None})
