"""Text pieces: a unit of length for texts whose token ids nobody knows."""

import re
from collections import Counter
from typing import Literal

from mi_lens.problems.think_kinds import MARKUP
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import word_of

# Raised and lowered digits, fractions and numbers in circles, which \w counts as letters.
NUMBERS = "²³¹¼-¾⁰⁴-⁹₀-₉⅐-⅟①-⒛"
PIECE = re.compile(rf"[^\W\d_{NUMBERS}]+|\S")
Unit = Literal["tokens", "text pieces"]


def text_pieces(text: str) -> list[str]:
    """The pieces of a text: a run of letters, or one other character that is not blank.

    "Let's try 12" has six of them: Let ' s try 1 2. English and mathematics have about as many
    pieces as tokens. The marks of think blocks are no pieces.
    """
    return PIECE.findall(MARKUP.sub(" ", text))


def text_words(trace: Trace) -> Counter[str]:
    """How often a trace's text writes each word: a text piece that is letters, case folded."""
    return Counter(word_of(piece) for piece in text_pieces(trace.text) if piece[0].isalpha())


def length_in(unit: Unit, trace: Trace) -> int:
    """The length of a trace: its token ids, or its text pieces.

    Raises:
        ValueError: If the trace has no such unit at all, so that rates per unit are not defined.
    """
    length = len(trace) if unit == "tokens" else len(text_pieces(trace.text))
    if not length:
        raise ValueError(f"trace {trace.id} has no {unit}; leave it out")
    return length
