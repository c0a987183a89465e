r"""The think block and its boundaries: what opens, closes and divides it, in text and in tokens.

A boundary is a blank line: two line ends with nothing but spaces, tabs and carriage returns between
them. Some tokenizers write it as one token, "\n\n" or ".\n\n", others as two. The token that
completes it is the boundary token.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from mi_lens.traces.vocabulary import token_strings

BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
MARKS = re.compile(rf"{BLANK_LINE.pattern}|</?think>")


@lru_cache(maxsize=8)
def think_ids(tokenizer) -> tuple[int, int] | None:
    """The ids of "<think>" and "</think>", or None unless both are single tokens."""
    ids = tokenizer.get_vocab()
    if "<think>" in ids and "</think>" in ids:
        return ids["<think>"], ids["</think>"]
    return None


@lru_cache(maxsize=8)
def written_strings(tokenizer) -> tuple[str, ...]:
    """What each token adds to the text. Special tokens add nothing, but think tokens their tag."""
    marks = think_ids(tokenizer) or ()
    silent = set(tokenizer.all_special_ids).difference(marks)
    return tuple("" if i in silent else s for i, s in enumerate(token_strings(tokenizer)))


@lru_cache(maxsize=8)
def writes_lines(tokenizer) -> bool:
    """Whether a tokenizer can write a line end at all. Without, a text has no boundaries."""
    return any("\n" in string for string in written_strings(tokenizer))


def require_lines(tokenizer) -> None:
    """Raises a ValueError if a tokenizer has no token for a line end."""
    if not writes_lines(tokenizer):
        raise ValueError(
            f"no token of this tokenizer ({type(tokenizer).__name__}) writes a line end, so it has "
            "no boundaries between thoughts; expected a tokenizer such as Qwen2's or Llama 3's"
        )


@lru_cache(maxsize=8)
def boundary_ids(tokenizer) -> frozenset[int]:
    """The tokens that hold a whole blank line. (`completes_blank_line` knows the others too.)

    Raises:
        ValueError: If there is no such token. Some tokenizers write every line end as its own
            token.
    """
    strings = enumerate(written_strings(tokenizer))
    boundaries = frozenset(i for i, string in strings if BLANK_LINE.search(string))
    if not boundaries:
        raise ValueError(
            f"no token of this tokenizer ({type(tokenizer).__name__}) holds a whole blank line, "
            "such as '\\n\\n'; expected a tokenizer such as Qwen2's or Llama 3's"
        )
    return boundaries


def pieces(tokenizer, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; nothing for an id that the tokenizer does not have."""
    strings = written_strings(tokenizer)
    return [strings[token] if token < len(strings) else "" for token in token_ids]


def completes_blank_line(tokenizer, token_ids: Sequence[int], place: int) -> bool:
    """Whether the token at a place completes a blank line: whether it is a boundary token."""
    (last,) = pieces(tokenizer, token_ids[place : place + 1])
    if "\n" not in last:
        return False
    before, first = "", place
    while first and not before.strip():  # blank lines begin within the run of blank space
        first -= 1
        before = pieces(tokenizer, token_ids[first : first + 1])[0] + before
    return any(found.end() > len(before) for found in BLANK_LINE.finditer(before + last))


def boundary_steps(tokenizer, token_ids: Sequence[int]) -> list[int]:
    """The places of boundary tokens: of those that complete a blank line."""
    strings = pieces(tokenizer, token_ids)
    ends = list(accumulate(map(len, strings)))
    found = BLANK_LINE.finditer("".join(strings))
    return sorted({bisect_right(ends, blank.end() - 1) for blank in found})


def thought_spans(text: str) -> Iterator[tuple[int, int, int]]:
    """The spans of text that follow a boundary inside the think block.

    The block is open at the start of the text. "</think>" closes it and "<think>" opens it again.

    Yields:
        For each span its first character, the character after its last, and the last character of
        the boundary or the first of the tag that ends the span (the text's length at its end).
    """
    start, inside = None, True
    for mark in MARKS.finditer(text):
        tag = mark[0] in ("<think>", "</think>")
        if start is not None:
            yield start, mark.start(), mark.start() if tag else mark.end() - 1
        if tag:
            inside = mark[0] == "<think>"
        start = mark.end() if inside and not tag else None
    if start is not None:
        yield start, len(text), len(text)


def thinking_after(text: str) -> bool:
    """Whether the think block is open behind a text that begins inside it."""
    return text.rfind("<think>") >= text.rfind("</think>")
