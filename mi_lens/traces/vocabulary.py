"""Words and the token ids that write them: a tokenizer's vocabulary, word by word."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mi_lens.common.html import table
from mi_lens.models.model import Model
from mi_lens.problems.prompts import require_tokenizer

# Paper 1's lists for DeepSeek-R1-Distill-Llama-8B: words for representation recycling, and words
# for test-time scaling.
RECYCLED_WORDS = ("So", "Let", "Hmm", "I", "The", "Okay", "That", "First", "Now", "Wait")
SCALING_WORDS = (
    "So", "Let", "Hmm", "I", "Okay", "First", "Wait", "But", "Now", "Then", "Since",
    "Therefore", "If", "Maybe", "To",
)  # fmt: skip
# NoWait's keywords (arXiv 2506.08343, section 3.1), from 32 runs of QwQ-32B on AIME 2025.
NOWAIT = (
    "wait", "alternatively", "hmm", "but", "however", "alternative", "another", "check",
    "double-check", "oh", "maybe", "verify", "other", "again", "now", "ah", "any",
)  # fmt: skip
# Sets of words by name: "@nowait" may stand wherever words are given.
NAMED = "@"
WORD_SETS = {"nowait": NOWAIT, "recycled": RECYCLED_WORDS, "scaling": SCALING_WORDS}


def word_of(string: str) -> str:
    r"""The case-folded word that a token string writes, without surrounding space and punctuation.

    The result is empty if nothing is left, as for "\n\n" or " =".
    """
    characters = string.casefold()
    inside = [i for i, c in enumerate(characters) if c.isalnum()]
    return characters[inside[0] : inside[-1] + 1] if inside else ""


@lru_cache(maxsize=8)
def token_strings(tokenizer) -> tuple[str, ...]:
    """The string of every token by itself, that of markup included.

    Raises:
        ValueError: If there is no tokenizer.
    """
    require_tokenizer(tokenizer)
    return tuple(tokenizer.batch_decode([[i] for i in range(len(tokenizer))]))


@lru_cache(maxsize=8)
def vocabulary(tokenizer) -> tuple[str, ...]:
    """The string of every token. Tokens added as markup, such as "<think>", have empty strings.

    Raises:
        ValueError: If there is no tokenizer.
    """
    strings = token_strings(tokenizer)
    markup = tokenizer.added_tokens_decoder.keys() | set(tokenizer.all_special_ids)
    return tuple("" if i in markup else s for i, s in enumerate(strings))


@dataclass(frozen=True)
class TokenSet:
    """Words with all the token ids that write them. " Wait", "Wait" and "wait" are the same word.

    Attributes:
        words: A mapping from each word to its token ids.
    """

    words: dict[str, tuple[int, ...]]

    def __repr__(self) -> str:
        some = ", ".join(repr(word[:20]) for word in list(self.words)[:5])
        more = ", ..." if len(self.words) > 5 else ""
        return f"TokenSet({some}{more}: {len(self.words):,} words, {len(self.ids):,} token ids)"

    @classmethod
    def of(cls, tokenizer, words: Iterable[str]) -> "TokenSet":
        """The set of all tokens in a tokenizer's vocabulary that write one of the words.

        Args:
            tokenizer: The tokenizer.
            words: Words. A name of `WORD_SETS`, such as "@nowait", stands for those words of the
                set that a single token writes.

        Raises:
            ValueError: If no single token writes a word, or any of a named set.
        """
        variants = defaultdict(list)
        for token, string in enumerate(vocabulary(tokenizer)):
            variants[word_of(string)].append(token)
        tokens = {}
        for word in words:
            if word.startswith(NAMED):
                known = [key for key in map(word_of, map(str, spelled([word]))) if key in variants]
                if not known:
                    raise ValueError(f"no single token of this tokenizer writes a word of {word!r}")
                tokens |= {key: tuple(variants[key]) for key in known}
                continue
            key = word_of(word)
            if not key or key not in variants:
                raise ValueError(
                    f"no single token of this tokenizer writes {word!r}; expected words that a "
                    "single token writes, such as 'Wait'"
                )
            tokens[key] = tuple(variants[key])
        return cls(tokens)

    def _repr_html_(self) -> str:
        rows = ((word, len(ids), ", ".join(map(str, ids))) for word, ids in self.words.items())
        return table(rows, ("word", "surface forms", "token ids"))

    @property
    def ids(self) -> frozenset[int]:
        """The token ids of all words."""
        return frozenset(token for tokens in self.words.values() for token in tokens)


Words = Sequence[str | int] | TokenSet


def as_words(words: Words) -> tuple[str | int, ...]:
    """A tuple of the given words and token ids.

    Args:
        words: A single word, a sequence of words and token ids, or a `TokenSet`, which stands for
            its token ids. The name of a set, such as "@nowait", stays as it is (see `spelled`).

    Raises:
        ValueError: If there are no words, a value is neither a word nor a token id, or no set of
            `WORD_SETS` has this name.
    """
    given: Iterable[Any] = words.ids if isinstance(words, TokenSet) else words
    entries = (words,) if isinstance(words, str) else tuple(given)
    if isinstance(words, TokenSet):
        entries = tuple(sorted(entries))
    if not entries:
        raise ValueError("no words given; expected at least one, such as 'Wait'")
    for word in entries:
        if not isinstance(word, str | int) or isinstance(word, bool):
            raise ValueError(f"{word!r} is neither a word, such as 'Wait', nor a token id")
        if isinstance(word, str) and word.startswith(NAMED) and word[1:] not in WORD_SETS:
            raise ValueError(
                f"{word!r}: no set of words has this name; expected one of "
                f"{[NAMED + name for name in WORD_SETS]}, or a word without {NAMED!r}"
            )
    return entries


def spelled(words: Words) -> tuple[str | int, ...]:
    """The given words and token ids, with the words of a set in the place of its name."""
    named = [
        WORD_SETS[word[1:]] if isinstance(word, str) and word.startswith(NAMED) else (word,)
        for word in as_words(words)
    ]
    return tuple(dict.fromkeys(word for of_name in named for word in of_name))


def word_ids(
    model: Model, words: Words, *, containing: bool = False, sparing: Sequence[str] = ()
) -> frozenset[int]:
    """The ids of all tokens that write one of the words.

    Every surface form of a word that is a single token counts. Token ids stand for themselves.

    Args:
        model: The model whose vocabulary is used.
        words: Words and token ids; names of sets as in `TokenSet.of`.
        containing: Whether to include tokens that only contain a word, in whatever case.
        sparing: Words whose own surface forms are left out, whatever they contain.

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
        parts = [str(name).casefold() for name in (spelled(names) if names else ())]
        spared = {word_of(word) for word in sparing}
        matches = {
            token
            for token, string in enumerate(vocabulary(model.tokenizer))
            if any(part in string.casefold() for part in parts) and word_of(string) not in spared
        }
        if names and not matches:
            spares = f", but for those that sparing={list(sparing)} names" if spared else ""
            raise ValueError(f"no token of this tokenizer contains any of {names}{spares}")
        return frozenset(ids | matches)
    return frozenset(ids) | TokenSet.of(model.tokenizer, names).ids
