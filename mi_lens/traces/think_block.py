r"""The think block and its boundaries: what opens, closes and divides it, in text and in tokens.

`mi_lens.problems.think_kinds` says which marks open and close it. Whether it is open where
generation starts is read from the prompt; see `opened_by`.

A boundary is a blank line: two line ends with nothing but spaces, tabs and carriage returns between
them. Some tokenizers write it as one token, "\n\n" or ".\n\n", others as two. The token that
completes it is the boundary token.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from mi_lens.problems.think_kinds import USUAL, ThinkKind, knows_marks, think_kind
from mi_lens.traces.vocabulary import token_strings

BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def silent_ids(tokenizer) -> frozenset[int]:
    """The special tokens that add nothing to the text: all but those that mark the thinking."""
    return _silent_ids(tokenizer, think_kind(tokenizer))


@lru_cache(maxsize=8)
def _silent_ids(tokenizer, kind: ThinkKind) -> frozenset[int]:
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    vocabulary = tokenizer.get_vocab()
    marks = {vocabulary[token] for token in kind.tokens if token in vocabulary}
    return frozenset(special.union(tokenizer.all_special_ids) - marks)


def written_text(tokenizer, token_ids: Sequence[int]) -> str:
    """The text of tokens, without special tokens other than those that mark the thinking."""
    silent = silent_ids(tokenizer)
    return tokenizer.decode([token for token in token_ids if token not in silent])


def written_strings(tokenizer) -> tuple[str, ...]:
    """What each token adds to the text; nothing for those of `silent_ids`."""
    return _written_strings(tokenizer, silent_ids(tokenizer))


@lru_cache(maxsize=8)
def _written_strings(tokenizer, silent: frozenset[int]) -> tuple[str, ...]:
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


def thought_spans(
    text: str, kind: ThinkKind = USUAL, opened: bool = True
) -> Iterator[tuple[int, int, int]]:
    """The spans of text that follow a boundary inside the think block.

    Args:
        text: The text.
        kind: Says which marks close and open the block.
        opened: Whether the block is open at the start of the text.

    Yields:
        For each span its first character, the character after its last, and the last character of
        the boundary or the first of the mark that ends the span (the text's length at its end).
    """
    start, inside = None, opened
    for found in re.finditer(f"{BLANK_LINE.pattern}|{kind.marks.pattern}", text):
        mark = found[0] in kind.texts
        if start is not None:
            yield start, found.start(), found.start() if mark else found.end() - 1
        if mark:
            inside = found[0] == kind.opening
        start = found.end() if inside and not mark else None
    if start is not None:
        yield start, len(text), len(text)


def opened_by(tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether the think block is open where generation starts.

    The last mark behind the prompt's last special token decides: the templates of R1 end with
    "<think>", that of Qwen3 without thinking with "<think>", a blank line and "</think>". Without
    a mark, the model opens the block itself, if its tokenizer or template knows the marks and a
    template made the prompt: if the prompt holds a special token after its first token. In every
    other case, such as a bare question, the block counts as open.
    """
    kind, silent = think_kind(tokenizer), silent_ids(tokenizer)
    special = [place for place, token in enumerate(prompt_ids) if token in silent]
    behind = prompt_ids[special[-1] + 1 :] if special else prompt_ids
    if marks := kind.marks.findall("".join(pieces(tokenizer, behind))):
        return marks[-1] == kind.opening
    return not (knows_marks(tokenizer, kind) and special and special[-1] > 0)


def thinking_end(tokenizer, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> int:
    """The number of generated tokens before the end of the thinking.

    The thinking ends where the think block is first closed, or else, as where no block was open,
    with the text. Blank tokens and special tokens at its end do not count.
    """
    kind, inside = think_kind(tokenizer), opened_by(tokenizer, prompt_ids)
    strings = pieces(tokenizer, token_ids)
    end = len(strings)
    for mark in kind.marks.finditer("".join(strings)):
        if inside and mark[0] != kind.opening:
            ends = list(accumulate(map(len, strings)))
            end = bisect_right(ends, mark.start())
            break
        inside = mark[0] == kind.opening
    while end and not strings[end - 1].strip():
        end -= 1
    return end


def mark_completed(tokenizer, token_ids: Sequence[int], place: int) -> bool | None:
    """Whether the token at a place completes a mark, and which.

    Returns:
        True for a mark that opens the think block, False for one that closes it, None for none.
    """
    kind = think_kind(tokenizer)
    (last,) = pieces(tokenizer, token_ids[place : place + 1])
    if kind.last_characters.isdisjoint(last):
        return None
    before, first = "", place
    while first and len(before) < len(kind.texts[0]) - 1:  # the longest mark, but what is in `last`
        first -= 1
        before = pieces(tokenizer, token_ids[first : first + 1])[0] + before
    marks = [found[0] for found in kind.marks.finditer(before + last) if found.end() > len(before)]
    return marks[-1] == kind.opening if marks else None


def closing_ids(tokenizer) -> frozenset[int]:
    """The tokens that by themselves close the think block."""
    closings = think_kind(tokenizer).closings
    strings = enumerate(written_strings(tokenizer))
    return frozenset(token for token, string in strings if string in closings)


def leaving_text(tokenizer) -> str:
    """The text with which a model leaves its think block and begins its reply.

    Raises:
        ValueError: If the model marks no thinking, so that no text ends it.
    """
    kind = think_kind(tokenizer)
    if not kind.opening:
        raise ValueError(
            f"this model has think={kind.name!r}: no mark ends its thinking; give the text that is "
            "to end it as ending="
        )
    return kind.leaving
