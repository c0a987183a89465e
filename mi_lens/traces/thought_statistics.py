"""Thoughts counted by class, level and correctness (SEAL's figures of counts)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.traces.correctness import Labels, known_correctness
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    TextThought,
    Thought,
    ThoughtClass,
    ThoughtRule,
    split_text,
    split_thoughts,
)
from mi_lens.traces.trace import Trace


@dataclass(frozen=True)
class ClassStatistics:
    """How many thoughts of one class a group of traces has.

    Attributes:
        thoughts: Number of thoughts of the class.
        tokens: Number of their tokens, without the boundaries; None for text alone.
        thoughts_per_trace: Mean number of thoughts per trace, with its interval over traces.
        tokens_per_trace: Mean number of tokens per trace, with its interval over traces; without a
            mean for text alone.
    """

    thoughts: int
    tokens: int | None
    thoughts_per_trace: Estimate
    tokens_per_trace: Estimate


@dataclass(frozen=True)
class ThoughtStatistics:
    """Thoughts by class in a group of traces (SEAL's figures of counts by level and correctness).

    Attributes:
        correct: Whether the group's answers are correct. None if the group ignores correctness;
            then it includes traces without a gold answer.
        level: The problems' difficulty. None if the group contains all levels.
        traces: Number of traces.
        classes: The counts of each class.
    """

    correct: bool | None
    level: str | None
    traces: int
    classes: dict[ThoughtClass, ClassStatistics]

    def share(self, thought_class: ThoughtClass) -> float | None:
        """The class's share of the group's thoughts, or None if the group has no thoughts."""
        total = sum(counts.thoughts for counts in self.classes.values())
        return self.classes[thought_class].thoughts / total if total else None

    def _repr_html_(self) -> str:
        rows = [
            (
                name,
                counts.thoughts,
                self.share(name),
                counts.thoughts_per_trace.text,
                counts.tokens_per_trace.text,
            )
            for name, counts in self.classes.items()
        ]
        verdict = {True: "right ", False: "wrong ", None: ""}[self.correct]
        level = "" if self.level is None else f" of level {self.level}"
        header = ("class", "thoughts", "share", "thoughts per trace", "tokens per trace")
        return table(rows, header, f"{self.traces:,} {verdict}traces{level}")


def thought_statistics(
    tokenizer, traces: Sequence[Trace], rule: ThoughtRule = SEAL, *, labels: Labels = "grader"
) -> list[ThoughtStatistics]:
    """Counts of thoughts and of their tokens, by class, correctness and level.

    The first three groups are all traces, the correct ones and the incorrect ones. The same three
    groups follow for each level. Groups without traces are left out. A trace without a gold answer
    is neither correct nor incorrect.

    Args:
        tokenizer: The traces' tokenizer; None splits their texts alone and counts no tokens.
        traces: The traces.
        rule: Assigns a class to every thought.
        labels: "grader" grades the answers; "author" takes the authors' labels.
    """
    counted = [
        (
            known_correctness(trace, labels),
            _level(trace),
            _counts(
                split_text(trace.text, rule)
                if tokenizer is None
                else split_thoughts(tokenizer, trace, rule)
            ),
        )
        for trace in traces
    ]
    levels = sorted({level for _, level, _ in counted if level is not None})
    groups = []
    for level, correct in product((None, *levels), (None, True, False)):
        counts = [
            count
            for is_right, of_level, count in counted
            if correct in (None, is_right) and level in (None, of_level)
        ]
        if counts:
            classes = _by_class(counts, tokenizer is not None)
            groups.append(ThoughtStatistics(correct, level, len(counts), classes))
    return groups


def _level(trace: Trace) -> str | None:
    return trace.problem.level if trace.problem is not None else None


TraceCounts = tuple[Counter[ThoughtClass], Counter[ThoughtClass]]


def _counts(thoughts: Sequence[Thought] | Sequence[TextThought]) -> TraceCounts:
    """The number of thoughts and the number of tokens, or characters, of each class."""
    numbers, tokens = Counter(), Counter()
    for thought in thoughts:
        numbers[thought.thought_class] += 1
        tokens[thought.thought_class] += thought.stop - thought.start
    return numbers, tokens


def _by_class(
    counts: Sequence[TraceCounts], in_tokens: bool
) -> dict[ThoughtClass, ClassStatistics]:
    statistics = {}
    for thought_class in THOUGHT_CLASSES:
        numbers = [float(number[thought_class]) for number, _ in counts]
        tokens = [float(token[thought_class]) for _, token in counts if in_tokens]
        statistics[thought_class] = ClassStatistics(
            thoughts=int(sum(numbers)),
            tokens=int(sum(tokens)) if in_tokens else None,
            thoughts_per_trace=estimate_mean(numbers),
            tokens_per_trace=estimate_mean(tokens),
        )
    return statistics
