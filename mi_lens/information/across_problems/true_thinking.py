"""Does a thought think? The numbers in it are changed: does the answer's probability follow?

The True-Thinking Score (arXiv 2510.24941) asks for the answer right after a step. It asks four
times: with the step as written and changed, behind the context as written and changed. Changed
numbers are no text of the model's own, so that the score says what the model reads out of a text,
and less on what it would have written.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import accumulate

import numpy as np

from mi_lens.common.by_problem import mean_over_problems
from mi_lens.common.progress import tracked
from mi_lens.common.provenance import content_hash
from mi_lens.common.statistics import Estimate
from mi_lens.information.across_problems.thought_gains import answer_bits
from mi_lens.models.model import Model
from mi_lens.problems.grading.grader import grade
from mi_lens.traces.think_block import pieces
from mi_lens.traces.thought_content import NUMBER
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    Thought,
    ThoughtClass,
    ThoughtRule,
    split_thoughts,
)
from mi_lens.traces.trace import Trace

OFFSETS = (-3, -2, -1, 1, 2, 3)


@dataclass(frozen=True)
class TrueThinking:
    """The probability of a trace's answer, forced right after a thought.

    Attributes:
        trace: Id of the trace.
        problem: Key of its problem (`Problem.key`).
        thought: The thought.
        numbers: How many numbers of the thought were changed. Without any, the thought was left
            out instead.
        intact: Probabilities behind the context as written: with the thought as written, and with
            the thought changed.
        changed: The same two behind the changed context.
    """

    trace: str
    problem: str
    thought: Thought
    numbers: int
    intact: tuple[float, float]
    changed: tuple[float, float]

    @property
    def necessity(self) -> float:
        """What the change of the thought costs behind the context as written."""
        return self.intact[0] - self.intact[1]

    @property
    def sufficiency(self) -> float:
        """What the change of the thought costs behind the changed context."""
        return self.changed[0] - self.changed[1]

    @property
    def score(self) -> float:
        """The True-Thinking Score, (|necessity| + |sufficiency|) / 2, between 0 and 1."""
        return (abs(self.necessity) + abs(self.sufficiency)) / 2


def true_thinking(
    model: Model,
    traces: Sequence[Trace],
    *,
    asking: str | None = None,
    closing: str = "}",
    rule: ThoughtRule = SEAL,
    seed: int = 0,
    progress: bool = False,
) -> list[TrueThinking]:
    """The True-Thinking Score of every thought of traces that give an answer.

    The answer is the one that the trace itself ends with, right or wrong. To change a text, every
    number in it is moved by 1, 2 or 3 up or down, but not below zero; other tokens stay. A thought
    without a number is left out instead, with the boundary before it. The context is all that was
    generated before the thought; the question stays as it is. Every text is changed once, so that
    the same changed numbers stand in a thought and in the context of later thoughts.

    Args:
        model: The model, with its tokenizer.
        traces: Traces with their problems.
        asking: What asks for the answer; see `thought_gains`. The score is only as good as this
            question: with a text that the model does not answer, all scores are near zero.
        closing: The text that ends the answer.
        rule: Tells the classes of thoughts apart.
        seed: Seeds the changes, together with the trace's id.
        progress: Whether to show the progress on stderr.

    Returns:
        One element per thought: traces in order, thoughts in order.

    Raises:
        ValueError: If a trace has no problem or gives no answer, was generated under interventions,
            or does not fit the model's context together with the question; or if the tokenizer
            does not write a changed number as it is.
    """
    scores = []
    for trace in tracked(traces, "perturb", "trace", progress):
        asked = _with_own_answer(trace)
        thoughts = split_thoughts(model.tokenizer, trace, rule)
        changes = _changes(model.tokenizer, trace, seed)

        def probabilities(
            token_ids: Sequence[int], cuts: Sequence[int], asked: Trace = asked
        ) -> list[float]:
            """Of the answer, forced after so many tokens."""
            text = replace(asked, token_ids=tuple(token_ids))
            bits = answer_bits(model, text, cuts, asking=asking, closing=closing)
            return [2.0**-value for value in bits]

        if thoughts:
            scores += _scores(trace, thoughts, changes, probabilities)
    return scores


@dataclass(frozen=True)
class Change:
    """Other tokens in the place of those from `start` to `stop` - 1, which write a number."""

    start: int
    stop: int
    token_ids: tuple[int, ...]


def _scores(
    trace: Trace,
    thoughts: Sequence[Thought],
    changes: Sequence[Change],
    probabilities: Callable[[Sequence[int], Sequence[int]], list[float]],
) -> list[TrueThinking]:
    """The scores of all thoughts. What several of them share is read once."""
    numbers = [len(_within(changes, thought.start, thought.stop)) for thought in thoughts]
    # Without a number to change, the text ends before the boundary that opens the thought.
    ends = [t.stop if n else t.start - 1 for t, n in zip(thoughts, numbers, strict=True)]
    stops = [thought.stop for thought in thoughts]
    ids = trace.token_ids
    written = probabilities(ids, stops + ends)
    all_changed = _changed(ids, changes, 0, len(ids))
    lengths = [len(_changed(ids, changes, 0, end)) for end in stops + ends]
    changed = probabilities(all_changed, lengths)
    scores = []
    for place, (thought, count) in enumerate(zip(thoughts, numbers, strict=True)):
        start, stop = thought.start, thought.stop
        intact = written[place], written[len(thoughts) + place]
        behind = changed[place], changed[len(thoughts) + place]
        if count:
            without = [*ids[:start], *_changed(ids, changes, start, stop)]
            context = [*_changed(ids, changes, 0, start), *ids[start:stop]]
            intact = intact[0], probabilities(without, [len(without)])[0]
            behind = probabilities(context, [len(context)])[0], behind[1]
        key = trace.require_problem("to name").key
        scores.append(TrueThinking(trace.id, key, thought, count, intact, behind))
    return scores


def _with_own_answer(trace: Trace) -> Trace:
    """The trace, with the answer that it gives as its problem's answer."""
    if trace.condition.get("interventions"):
        raise ValueError(
            f"trace {trace.id} was generated under interventions, which do not act on a changed "
            "text; give traces without"
        )
    problem = trace.require_problem("to find its answer by")
    answer = grade(trace.text, problem).extracted
    if answer is None:
        raise ValueError(f"trace {trace.id} gives no answer whose probability could change")
    return replace(trace, problem=replace(problem, answer=answer))


def _changes(tokenizer, trace: Trace, seed: int) -> list[Change]:
    """Every number of a trace's text, moved a little, as tokens."""
    rng = np.random.default_rng(int(content_hash([seed, trace.id]), 16))
    strings = pieces(tokenizer, trace.token_ids)
    ends = [*accumulate(map(len, strings))]
    changes = []
    for found in NUMBER.finditer("".join(strings)):
        start, stop = bisect_right(ends, found.start()), bisect_right(ends, found.end() - 1) + 1
        first = ends[start] - len(strings[start])
        text, moved = "".join(strings[start:stop]), _moved(found[0], rng)
        text = text[: found.start() - first] + moved + text[found.end() - first :]
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if "".join(pieces(tokenizer, token_ids)) != text:
            raise ValueError(
                f"trace {trace.id}: this tokenizer ({type(tokenizer).__name__}) does not write "
                f"{text!r} alone as it is, so numbers cannot be changed in place"
            )
        changes.append(Change(start, stop, token_ids))
    return changes


def _moved(number: str, rng: np.random.Generator) -> str:
    """A number moved by one of the offsets that leave it zero or more, written as it was."""
    value = Decimal(number.replace(",", ""))
    offset = int(rng.choice([offset for offset in OFFSETS if value + offset >= 0]))
    return f"{value + offset:,}" if "," in number else str(value + offset)


def _within(changes: Sequence[Change], start: int, stop: int) -> list[Change]:
    return [change for change in changes if start <= change.start and change.stop <= stop]


def _changed(
    token_ids: Sequence[int], changes: Sequence[Change], start: int, stop: int
) -> list[int]:
    """The tokens from `start` to `stop` - 1, with the changes that lie among them."""
    tokens: list[int] = []
    for change in _within(changes, start, stop):
        tokens += [*token_ids[start : change.start], *change.token_ids]
        start = change.stop
    return [*tokens, *token_ids[start:stop]]


def true_thinking_by_class(scores: Sequence[TrueThinking]) -> dict[ThoughtClass, Estimate]:
    """The mean score of each class of thoughts: over a problem's thoughts, then over problems."""
    return {
        name: mean_over_problems(
            (one.problem, one.score) for one in scores if one.thought.thought_class == name
        )
        for name in THOUGHT_CLASSES
    }
