r"""Thoughts: what stands between blank lines inside the think block, and of which kind it is.

SEAL (arXiv 2504.07986) tells execution, reflection and transition apart by keywords, and reads and
steers the state at the boundary that opens a thought: the token whose string contains "\n\n".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, get_args

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.problems.grading.grader import grade
from mi_lens.tokens import vocabulary
from mi_lens.traces import Trace

ThoughtClass = Literal["execution", "reflection", "transition"]
THOUGHT_CLASSES: tuple[ThoughtClass, ...] = get_args(ThoughtClass)


@dataclass(frozen=True)
class ThoughtRule:
    """Keywords that tell thoughts apart, whatever their case.

    Attributes:
        name: Recorded with whatever is made by the rule.
        prefixes: Class to what its thoughts may begin with.
        substrings: Class to what its thoughts may contain.
        precedence: The class whose keywords are looked for first, then the next; a thought that
            none of them claims is execution.
    """

    name: str
    prefixes: Mapping[ThoughtClass, Sequence[str]]
    substrings: Mapping[ThoughtClass, Sequence[str]]
    precedence: tuple[ThoughtClass, ...] = ("reflection", "transition")

    def __post_init__(self):
        listed = {*self.prefixes, *self.substrings}
        if unknown := (listed | set(self.precedence)) - set(THOUGHT_CLASSES):
            raise ValueError(
                f"rule {self.name!r} names the thought class {min(unknown)!r}; expected some of "
                f"{THOUGHT_CLASSES}"
            )
        if unplaced := listed - set(self.precedence):
            raise ValueError(
                f"rule {self.name!r} has keywords for {min(unplaced)!r}, which its precedence "
                f"{self.precedence} leaves out; add the class there"
            )
        for keywords in (*self.prefixes.values(), *self.substrings.values()):
            if isinstance(keywords, str) or not all(keywords):
                raise ValueError(
                    f"rule {self.name!r} has the keywords {keywords!r}; expected a list of "
                    "strings that are not empty"
                )

    def matches(self, text: str, thought_class: ThoughtClass) -> bool:
        """Whether a text, stripped and in lower case, has a keyword of the class."""
        prefixes = self.prefixes.get(thought_class, ())
        substrings = self.substrings.get(thought_class, ())
        return any(text.startswith(word.lower()) for word in prefixes) or any(
            word.lower() in text for word in substrings
        )


SEAL = ThoughtRule(
    name="seal",
    prefixes={"reflection": ("Wait",), "transition": ("Alternatively",)},
    substrings={
        "reflection": (
            "verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect",
            "let me check", "seems right",
        ),
        "transition": (
            "think differently", "another way", "another approach", "another method",
            "another solution", "another strategy", "another technique",
        ),
    },
)  # fmt: skip
# EasySteer's replication of SEAL: transition is looked for first, and "wait" and "alternatively"
# anywhere in a thought.
EASYSTEER = ThoughtRule(
    name="easysteer",
    prefixes={},
    substrings={
        "reflection": ("wait", *SEAL.substrings["reflection"]),
        "transition": ("alternatively", *SEAL.substrings["transition"]),
    },
    precedence=("transition", "reflection"),
)


def classify(text: str, rule: ThoughtRule = SEAL) -> ThoughtClass:
    """The class of a thought's text."""
    stripped = text.strip().lower()
    for thought_class in rule.precedence:
        if rule.matches(stripped, thought_class):
            return thought_class
    return "execution"


@lru_cache(maxsize=8)
def boundary_ids(tokenizer) -> frozenset[int]:
    r"""The tokens whose string contains a blank line, "\n\n".

    Raises:
        ValueError: If there are none, as with tokenizers that write every newline by itself.
    """
    found = frozenset(i for i, string in enumerate(vocabulary(tokenizer)) if "\n\n" in string)
    if not found:
        raise ValueError(
            "no token of this tokenizer contains '\\n\\n', so no state stands at a boundary "
            "between thoughts; expected a tokenizer such as Qwen2's or Llama 3's"
        )
    return found


@lru_cache(maxsize=8)
def think_ids(tokenizer) -> tuple[int, int] | None:
    """The ids of "<think>" and "</think>", or None where these are not both single tokens."""
    ids = tokenizer.get_vocab()
    if "<think>" in ids and "</think>" in ids:
        return ids["<think>"], ids["</think>"]
    return None


@dataclass(frozen=True)
class Thought:
    """A thought of a trace: its tokens are the generated tokens start to stop - 1.

    Attributes:
        thought_class: Its kind.
        text: Its text without surrounding blank space.
        start: The step that emits its first token. The boundary that opens it is generated token
            start - 1.
        stop: The step after its last; where another thought follows, the one that emits the
            boundary between them.
    """

    thought_class: ThoughtClass
    text: str
    start: int
    stop: int

    @property
    def boundary_step(self) -> int:
        """The step at which the opening boundary is consumed: where SEAL reads and steers.

        The boundary is generated token b; the state at its position emits token b + 1, the
        thought's first. So it is row b + 1 = `start` of what `capture` returns.
        """
        return self.start


def split_thoughts(tokenizer, trace: Trace, rule: ThoughtRule = SEAL) -> list[Thought]:
    r"""The thoughts of a trace, in order.

    Inside the think block only: where no "</think>" stands since the last "<think>", or since the
    start of the generation, as R1's prompts open the block themselves. A model without these
    tokens thinks throughout. Only generated boundaries count.

    Text before the first boundary of a block opens at no boundary and is dropped, as SEAL does.
    A boundary with nothing but blank space up to the next, or up to "</think>" or the end, opens
    no thought. (Keyword rules applied to the letter call it execution. Where models write
    "\n\n</think>" that is one thought a trace, with the state that emits "</think>".)
    """
    thoughts = []
    spans = _spans(trace.token_ids, boundary_ids(tokenizer), think_ids(tokenizer))
    for start, stop in spans:
        text = tokenizer.decode(trace.token_ids[start:stop], skip_special_tokens=True).strip()
        if text:
            thoughts.append(Thought(classify(text, rule), text, start, stop))
    return thoughts


def _spans(
    token_ids: Sequence[int], boundaries: frozenset[int], think: tuple[int, int] | None
) -> list[tuple[int, int]]:
    """Steps from after a boundary to before the next one, a think token or the end."""
    spans, start, inside = [], None, True
    opening, closing = think or (None, None)
    for step, token in enumerate(token_ids):
        if token not in boundaries and token not in (opening, closing):
            continue
        if start is not None:
            spans.append((start, step))
        if token in (opening, closing):
            inside = token == opening
        start = step + 1 if inside and token in boundaries else None
    if start is not None:
        spans.append((start, len(token_ids)))
    return [span for span in spans if span[0] < span[1]]


@dataclass(frozen=True)
class ClassStatistics:
    """How many thoughts of one class a group of traces has.

    Attributes:
        thoughts: Their number.
        tokens: Their tokens, boundaries not among them.
        thoughts_per_trace: With its interval over traces.
        tokens_per_trace: Likewise.
    """

    thoughts: int
    tokens: int
    thoughts_per_trace: Estimate
    tokens_per_trace: Estimate


@dataclass(frozen=True)
class ThoughtStatistics:
    """Thoughts by class in a group of traces (SEAL's figures of counts by level and correctness).

    Attributes:
        correct: Whether the group's answers are right; None for all, gold answer or not.
        level: The problems' difficulty; None for all.
        traces: How many there are.
        classes: By class.
    """

    correct: bool | None
    level: str | None
    traces: int
    classes: dict[ThoughtClass, ClassStatistics]

    def share(self, thought_class: ThoughtClass) -> float | None:
        """The class's share of the group's thoughts; None where it has no thoughts."""
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
        header = ("class", "thoughts", "share", "thoughts a trace", "tokens a trace")
        return table(rows, header, f"{self.traces:,} {verdict}traces{level}")


def thought_statistics(
    tokenizer, traces: Sequence[Trace], rule: ThoughtRule = SEAL
) -> list[ThoughtStatistics]:
    """Counts of thoughts and of their tokens, by class, correctness and level.

    The first group is all traces; then come the correct and the incorrect ones, and each level,
    all of it and by correctness. Groups without traces are left out. A trace without a gold answer
    is neither correct nor incorrect.
    """
    counted = [
        (_correct(trace), _level(trace), _counts(split_thoughts(tokenizer, trace, rule)))
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
            groups.append(ThoughtStatistics(correct, level, len(counts), _by_class(counts)))
    return groups


def _correct(trace: Trace) -> bool | None:
    problem = trace.problem
    if problem is None or not (problem.answer or problem.tests):
        return None
    return grade(trace.text, problem).correct


def _level(trace: Trace) -> str | None:
    return trace.problem.level if trace.problem is not None else None


TraceCounts = tuple[Counter[ThoughtClass], Counter[ThoughtClass]]


def _counts(thoughts: Sequence[Thought]) -> TraceCounts:
    """Thoughts and tokens by class."""
    numbers, tokens = Counter(), Counter()
    for thought in thoughts:
        numbers[thought.thought_class] += 1
        tokens[thought.thought_class] += thought.stop - thought.start
    return numbers, tokens


def _by_class(counts: Sequence[TraceCounts]) -> dict[ThoughtClass, ClassStatistics]:
    statistics = {}
    for thought_class in THOUGHT_CLASSES:
        numbers = [float(number[thought_class]) for number, _ in counts]
        tokens = [float(token[thought_class]) for _, token in counts]
        statistics[thought_class] = ClassStatistics(
            thoughts=int(sum(numbers)),
            tokens=int(sum(tokens)),
            thoughts_per_trace=estimate_mean(numbers),
            tokens_per_trace=estimate_mean(tokens),
        )
    return statistics
