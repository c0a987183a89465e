"""Problems: a question, its gold answer or its tests, and where they came from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mi_lens.common.provenance import content_hash
from mi_lens.problems.code_tests import CodeTests

# LaTeX that changes how a question looks, not what it asks.
LAYOUT = re.compile(
    r"\\(?:(?:left|right|displaystyle)(?![a-zA-Z])|[,;:!()\[\]])|[$~\s{}]|[.,;:?!](?!\d)"
)


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer, or with tests.

    Attributes:
        id: Names the problem within its source.
        question: The text put to the model, without any template.
        answer: The gold answer, as text; "" where tests decide.
        solution: A worked solution that ends in the answer, where the source has one.
        source: The benchmark or file it came from.
        split: "train", "validation" or "test".
        level: Difficulty, in the source's own words.
        tests: What a program must pass, for a programming problem.
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
        if isinstance(self.tests, dict):  # as it is in a file of traces
            object.__setattr__(self, "tests", CodeTests.from_json(self.tests))

    @property
    def key(self) -> str:
        """Names the problem by what it asks, whatever its id, source and layout.

        Two problems have one key where `normalised` makes the same text of their questions.
        """
        return content_hash(normalised(self.question))


def overlap(a: Sequence[Problem], b: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """The pairs of problems of two sets that have the same key.

    Each problem of `a` is paired with the first such of `b`.
    """
    first: dict[str, Problem] = {}
    for problem in b:
        first.setdefault(problem.key, problem)
    keys = ((problem, problem.key) for problem in a)
    return [(problem, first[key]) for problem, key in keys if key in first]


def normalised(question: str) -> str:
    r"""A question without case, white space, punctuation between words, and LaTeX's layout.

    \dfrac and \tfrac are \frac, and 2^{10} is 2^10. A reworded question is another question here.
    """
    plain = re.sub(r"\\[dt]frac", r"\\frac", question)
    return LAYOUT.sub("", plain).casefold()
