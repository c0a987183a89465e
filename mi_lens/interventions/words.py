"""Words as interventions take them: by name, or as token ids."""

from collections.abc import Iterable, Sequence
from typing import Any

from mi_lens.tokens import TokenSet, vocabulary

Words = Sequence[str | int] | TokenSet


class Worded:
    """An intervention with a field `words`: whatever is given, it holds a tuple."""

    words: Words

    def __post_init__(self):
        object.__setattr__(self, "words", as_words(self.words))


def as_words(words: Words) -> tuple[str | int, ...]:
    """Words as given: one, several, token ids, or a `TokenSet`, which stands for its ids.

    Raises:
        ValueError: If there are none, or one is neither a word nor a token id.
    """
    given: Iterable[Any] = words.ids if isinstance(words, TokenSet) else words
    found = (words,) if isinstance(words, str) else tuple(given)
    if isinstance(words, TokenSet):
        found = tuple(sorted(found))
    if not found:
        raise ValueError("no words given; expected at least one, as 'Wait'")
    for word in found:
        if not isinstance(word, str | int):
            raise ValueError(f"{word!r} is neither a word nor a token id; expected as 'Wait'")
    return found


def word_ids(model, words: Words, *, containing: bool = False) -> frozenset[int]:
    """The token ids of words: every surface form that is one token; ids stand for themselves.

    Args:
        model: Whose vocabulary it is.
        words: Words and token ids.
        containing: Also tokens that contain a word, case-insensitively.

    Raises:
        ValueError: If no single token writes a word, or the vocabulary has no such id.
    """
    given = as_words(words)
    ids = {word for word in given if isinstance(word, int)}
    names = [word for word in given if isinstance(word, str)]
    for token in ids:
        if not 0 <= token < model.cfg.d_vocab:
            raise ValueError(f"token id {token}: this vocabulary has 0 to {model.cfg.d_vocab - 1}")
    if containing:
        parts = [name.casefold() for name in names]
        found = {
            token
            for token, string in enumerate(vocabulary(model.tokenizer))
            if any(part in string.casefold() for part in parts)
        }
        if names and not found:
            raise ValueError(f"no token of this tokenizer contains any of {names}")
        return frozenset(ids | found)
    return frozenset(ids) | TokenSet.of(model.tokenizer, names).ids
