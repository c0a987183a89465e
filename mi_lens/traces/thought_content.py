"""What a thought says: the numbers that it states, and how far its text is from another's.

Thought Anchors (arXiv 2506.19143) compares sentences by the cosine of their embeddings. Here no
second model is needed: the cosine is that of word counts, and two thoughts that state different
numbers are never the same. Word counts see neither the order of words nor synonyms.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import sqrt

NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)", re.ASCII)
WORD = re.compile(rf"{NUMBER.pattern}|[^\W\d_]+|\S")


def numbers_in(text: str) -> frozenset[Decimal]:
    """The numbers that a text states, without signs: "1,200 - 3.50" states 1200 and 3.5.

    Digits beside a letter, as in "2x" or "x2", are no number.
    """
    return frozenset(Decimal(found.replace(",", "")) for found in NUMBER.findall(text))


def text_distance(text: str, other: str) -> float:
    """1 less the cosine of two texts' word counts: 0 for the same words, 1 for none in common.

    A word is a run of letters, case folded, a number, or another character that is not blank. A
    text without words is at distance 1 from any other, and at 0 from another without words.
    """
    counts, others = (Counter(WORD.findall(each.casefold())) for each in (text, other))
    if counts == others:
        return 0.0
    norms = sqrt(sum(n * n for n in counts.values()) * sum(n * n for n in others.values()))
    if not norms:
        return 1.0
    return max(0.0, 1 - sum(n * others[word] for word, n in counts.items()) / norms)


@dataclass(frozen=True)
class SameContent:
    """Whether two thoughts say the same: the same numbers, in texts that are near each other.

    Attributes:
        threshold: Texts at a smaller distance are near; those at distance 0 always are.
        distance: The distance of two texts.
    """

    threshold: float
    distance: Callable[[str, str], float] = text_distance

    def __call__(self, text: str, other: str) -> bool:
        """Whether two texts say the same."""
        if numbers_in(text) != numbers_in(other):
            return False
        distance = self.distance(text, other)
        return distance == 0 or distance < self.threshold
