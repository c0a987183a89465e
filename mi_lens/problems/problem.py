"""A problem: a question, its gold answer or its tests, and where they came from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mi_lens.common.html import one_line, table, text_box
from mi_lens.common.provenance import content_hash
from mi_lens.problems.code_tests import CodeTests

# White space, punctuation and LaTeX that change how a question looks, not what it asks.
LAYOUT = re.compile(
    r"\\(?:(?:left|right|displaystyle)(?![a-zA-Z])|[,;:!()\[\]])|[$~\s{}]|[.,;:?!](?!\d)"
)


def require_writable(text: str, what: str) -> None:
    """Raises a ValueError if a text holds half of a character, which UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds {text[error.start]!a} at character {error.start}, half of a "
            "character in UTF-16; read the source again with its encoding"
        ) from None


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer, or with tests.

    Attributes:
        id: The problem's name within its source.
        question: The question, without any template.
        answer: The gold answer as text; "" if tests decide.
        solution: A worked solution that ends in the answer, if the source has one.
        source: The benchmark or file it came from.
        split: "train", "validation" or "test".
        level: The difficulty, as the source states it.
        tests: The tests that a program must pass, for a programming problem.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    source: str = ""
    split: str = "test"
    level: str | None = None
    tests: CodeTests | None = None

    def __post_init__(self):
        for name in ("id", "question", "answer", "solution"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name != "solution"):
                raise ValueError(f"problem {self.id!r}: {name}={value!r}; expected text")
        if isinstance(self.tests, dict):  # read from a file of traces
            object.__setattr__(self, "tests", CodeTests.from_json(self.tests))

    def __repr__(self) -> str:
        decided = f"answer {one_line(self.answer, 40)!r}"
        if self.tests is not None:
            decided = "decided by tests"
        source = f" of {one_line(self.source, 40)}" if self.source else ""
        question = one_line(self.question, 100)
        return f"Problem({one_line(self.id, 30)!r}{source}: {question!r}, {decided})"

    def _repr_html_(self) -> str:
        about = {
            "id": self.id,
            "gold answer": self.answer or None,
            "tests": None if self.tests is None else "yes",
            "source": self.source or None,
            "split": self.split,
            "level": self.level,
        }
        parts = [table(about), text_box(self.question)]
        return "\n".join(parts if self.solution is None else [*parts, text_box(self.solution)])

    @property
    def key(self) -> str:
        """A hash of what the problem asks, which ignores its id, its source and its layout.

        Two problems have the same key if `normalised` gives the same text for their questions.
        """
        return content_hash(normalised(self.question))


def overlap(a: Sequence[Problem], b: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """The pairs of problems from two sets that have the same key.

    Each problem of `a` is paired with the first problem of `b` that has its key.
    """
    first: dict[str, Problem] = {}
    for problem in b:
        first.setdefault(problem.key, problem)
    keys = ((problem, problem.key) for problem in a)
    return [(problem, first[key]) for problem, key in keys if key in first]


def normalised(question: str) -> str:
    r"""A question without upper case, white space, punctuation between words and LaTeX layout.

    \dfrac and \tfrac become \frac, and 2^{10} becomes 2^10. Rewording is not recognised.
    """
    plain = re.sub(r"\\[dt]frac", r"\\frac", question)
    return LAYOUT.sub("", plain).casefold()
