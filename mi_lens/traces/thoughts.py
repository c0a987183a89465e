r"""Thoughts: the pieces of text between blank lines inside the think block, and their classes.

SEAL (arXiv 2504.07986) uses keywords to tell execution, reflection and transition apart. It reads
and steers the state at the boundary that opens a thought. A boundary is the token that completes
the blank line.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

from mi_lens.common.html import ShownList, one_line
from mi_lens.problems.think_kinds import (
    AUTO,
    MARKUP,
    THINK_KINDS,
    kind_of_text,
    require_think_kind,
    think_kind,
)
from mi_lens.traces.think_block import (
    BLANK_LINE,
    opened_by,
    pieces,
    require_lines,
    thought_spans,
    written_text,
)
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import token_strings

ThoughtClass = Literal["execution", "reflection", "transition"]
THOUGHT_CLASSES: tuple[ThoughtClass, ...] = get_args(ThoughtClass)


@dataclass(frozen=True)
class ThoughtRule:
    """Keywords that tell the classes of thoughts apart. Upper and lower case are the same.

    Attributes:
        name: The rule's name. It is recorded with every result of the rule.
        prefixes: For each class, strings with which a thought of the class may begin.
        substrings: For each class, strings that a thought of the class may contain.
        precedence: The order in which the classes' keywords are looked for. A thought that matches
            none of these classes is execution.
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
                f"{self.precedence} leaves out; add the class to the precedence"
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
# EasySteer's replication of SEAL: it looks for transition first, and it looks for "wait" and
# "alternatively" anywhere in a thought.
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


@dataclass(frozen=True)
class Thought:
    """A thought of a trace: the generated tokens start to stop - 1.

    Attributes:
        thought_class: The thought's class.
        text: The thought's text without surrounding blank space.
        start: The step that emits the thought's first token. The boundary that opens the thought is
            generated token start - 1.
        stop: The step after the thought's last step. If another thought follows, this step emits
            the boundary between the two.
    """

    thought_class: ThoughtClass
    text: str
    start: int
    stop: int

    @property
    def boundary_step(self) -> int:
        """The step at which the model consumes the opening boundary. SEAL reads and steers there.

        Let the boundary be generated token b. The state at its position emits token b + 1, which is
        the thought's first token. So this state is row b + 1 = `start` of what `capture` returns.
        """
        return self.start

    def __repr__(self) -> str:
        text = one_line(self.text, 100)
        return f"Thought({self.thought_class}, steps {self.start} to {self.stop - 1}: {text!r})"


class Thoughts(ShownList[Thought]):
    """Thoughts; a notebook shows them as a table."""

    columns = ("class", "first step", "steps", "text")

    def cells(self, item: Thought) -> tuple[str, int, int, str]:
        """See `ShownList.cells`."""
        return item.thought_class, item.start, item.stop - item.start, one_line(item.text, 200)


@dataclass(frozen=True)
class TextThought:
    """A thought in a text that has no tokens.

    Attributes:
        thought_class: The thought's class.
        text: The thought's text without surrounding blank space.
        start: Where the thought begins in the text: the character after the blank line.
        stop: The character after the thought's last.
    """

    thought_class: ThoughtClass
    text: str
    start: int
    stop: int

    def __repr__(self) -> str:
        text = one_line(self.text, 100)
        place = f"characters {self.start} to {self.stop - 1}"
        return f"TextThought({self.thought_class}, {place}: {text!r})"


def split_text(
    text: str, rule: ThoughtRule = SEAL, *, kind: str = AUTO, opened: bool = True
) -> list[TextThought]:
    """The thoughts of a text, in order; no tokenizer is needed.

    They are those that `split_thoughts` finds in the text's tokens, under the same rules, if the
    kind and `opened` are what tokenizer and prompt say.

    Args:
        text: The text.
        rule: Assigns a class to every thought.
        kind: The kind of think block (`mi_lens.problems.think_kinds.THINK_KINDS`); "auto" takes the
            one whose mark comes first in the text.
        opened: Whether the think block is open at the start of the text, because the prompt opened
            it. It makes no difference to a text that begins with the mark.

    Raises:
        ValueError: If there is no such kind.
    """
    require_think_kind(kind)
    marked = kind_of_text(text) if kind == AUTO else THINK_KINDS[kind]
    return [
        TextThought(classify(text[start:stop], rule), text[start:stop].strip(), start, stop)
        for start, stop, _ in thought_spans(text, marked, opened)
        if text[start:stop].strip()
    ]


def split_thoughts(tokenizer, trace: Trace, rule: ThoughtRule = SEAL) -> list[Thought]:
    r"""The thoughts of a trace, in order.

    Only text inside the think block counts. The tokenizer says which marks open and close it
    (`mi_lens.problems.think_kinds.think_kind`), and the prompt whether it is open where generation
    starts (`mi_lens.traces.think_block.opened_by`), as R1's prompts leave it. Only generated
    boundaries count. A blank line may hold spaces and tabs, and end as Windows writes it.

    Text before the first boundary of a block has no opening boundary and is dropped, as in SEAL.
    A boundary opens no thought if only blank space follows up to the next boundary, the block's end
    or that of the text. (A literal keyword rule would call this blank space execution. Where models
    write "\n\n</think>", that would add one thought per trace, with the state that emits
    "</think>".)

    Punctuation that shares a token with a boundary, as in ".\n\n", is part of the text, but the
    token is not part of the thought's steps. A thought that has no token of its own, such as "---"
    in "---\n\n", has the step of that token.

    Raises:
        ValueError: If the trace is text alone (use `split_text`), if the tokenizer writes no line
            ends, or if the blank lines of the trace's text are not those of its tokens: then the
            token ids are of another tokenizer.
    """
    token_ids = trace.require_steps().token_ids
    require_lines(tokenizer)
    strings = pieces(tokenizer, token_ids)
    ends = [*accumulate(map(len, strings))]
    text = "".join(strings)
    _require_same_blank_lines(tokenizer, trace, text)
    thoughts = Thoughts()
    kind, opened = think_kind(tokenizer), opened_by(tokenizer, trace.prompt_ids)
    for first, last, closing in thought_spans(text, kind, opened):
        opening, stop = bisect_right(ends, first - 1), bisect_right(ends, closing)
        start = opening + 1
        before = text[first : min(ends[opening], last)]
        # Where tokens split a character, only `decode` puts it together.
        within = written_text(tokenizer, token_ids[start:stop])
        behind = text[ends[stop - 1] : last] if start <= stop < len(ends) else ""
        if whole := (before + within + behind).strip():
            stop = max(stop, start + 1)
            thoughts.append(Thought(classify(whole, rule), whole, start, stop))
    return thoughts


def _require_same_blank_lines(tokenizer, trace: Trace, text: str) -> None:
    """Raises a ValueError unless tokens write as many blank lines as the trace's text has.

    Special tokens may stand in the text or be left out, also those that mark the think block.
    """
    wanted, found = (len(BLANK_LINE.findall(written)) for written in (trace.text, text))
    if found == wanted:
        return
    strings = token_strings(tokenizer)
    literal = "".join(strings[token] for token in trace.token_ids if token < len(strings))
    for other in (literal, MARKUP.sub("", text)):
        if len(BLANK_LINE.findall(other)) == wanted:
            return
    raise ValueError(
        f"trace {trace.id}: its text has {wanted} blank lines, and its tokens have {found} by this "
        f"tokenizer ({type(tokenizer).__name__}), so they are not of this tokenizer, or it does "
        "not keep blank lines; pass the one that the trace was made with, or split its text alone: "
        "mi_lens.split_text(trace.text)"
    )
