"""THINK_KINDS: how models mark their thinking in what they write, one row for each kind.

A tokenizer's kind is found from its vocabulary, then from its chat template. `use_think_kind` sets
another one. The text decides: a mark counts however many tokens write it.
"""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any


@dataclass(frozen=True)
class ThinkKind:
    """How the think block is marked.

    Attributes:
        name: The kind's name.
        opening: The text that opens the block; empty if nothing does.
        closings: The texts that close it. The reply stands behind the last of them.
        leaving: The text with which a model leaves the block and begins its reply.
        tokens: Tokens of the vocabulary by which the kind is known. They stay in a trace's text,
            even where they are special tokens.
        spelled: Whether several ordinary tokens may write the marks, too.
        others: Other texts that are marks and no words.
    """

    name: str
    opening: str
    closings: tuple[str, ...]
    leaving: str
    tokens: tuple[str, ...]
    spelled: bool = False
    others: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The texts that open or close the block, the longest first."""
        texts = (self.opening, *self.closings) if self.opening else ()
        return tuple(sorted(texts, key=len, reverse=True))

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """Finds the texts that open or close the block."""
        return _any_of(self.texts)

    @cached_property
    def last_characters(self) -> frozenset[str]:
        """The characters with which these texts end."""
        return frozenset(text[-1] for text in self.texts)


def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


_TABLE = (
    # gpt-oss: a message has a header, which names its channel. Only "analysis" is thinking.
    ThinkKind(
        name="gpt-oss",
        opening="<|channel|>analysis<|message|>",
        closings=("<|channel|>", "<|start|>", "<|end|>", "<|channel|>final<|message|>"),
        leaving="<|end|><|start|>assistant<|channel|>final<|message|>",
        tokens=("<|channel|>", "<|start|>", "<|end|>", "<|message|>"),
        others=("<|start|>assistant", "<|channel|>commentary", "<|message|>"),
    ),
    ThinkKind("magistral", "[THINK]", ("[/THINK]",), "[/THINK]", ("[THINK]", "[/THINK]")),
    ThinkKind(
        name="open-thoughts",
        opening="<|begin_of_thought|>",
        closings=("<|end_of_thought|>",),
        leaving="\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n",
        tokens=("<|begin_of_thought|>", "<|end_of_thought|>"),
        spelled=True,
        others=("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    # DeepSeek-R1 and its distillations, QwQ, Qwen3, Olmo-3-Think, SmolLM3, Phi-4-reasoning.
    ThinkKind(
        name="think",
        opening="<think>",
        closings=("</think>",),
        leaving="\n</think>\n\n",
        tokens=("<think>", "</think>"),
        spelled=True,
    ),
    # Nothing opens or closes a block: all that is generated counts as thinking, and as reply.
    ThinkKind("none", "", (), "\n\n", (), spelled=True),
)
THINK_KINDS = {kind.name: kind for kind in _TABLE}
# For texts and tokenizers without marks: if a model writes "</think>" all the same, it counts.
USUAL = THINK_KINDS["think"]
AUTO = "auto"

# Every kind's marks, for what looks at the words or the reply of a text of any kind.
MARKUP = _any_of(tuple(text for kind in _TABLE for text in (*kind.texts, *kind.others)))
_REPLIES = _any_of(tuple(kind.closings[-1] for kind in _TABLE if kind.closings))


def require_think_kind(name: str) -> None:
    """Raises a ValueError unless the name is "auto" or that of a kind."""
    if name not in (AUTO, *THINK_KINDS):
        raise ValueError(f"think={name!r}: expected {AUTO!r} or one of {[*THINK_KINDS]}")


def use_think_kind(tokenizer: Any, name: str) -> None:
    """Sets the kind of think block that a tokenizer's model writes.

    Do this before anything is generated or read. The kind is part of the model's fingerprint.

    Args:
        tokenizer: A Hugging Face tokenizer. It keeps the name as its attribute `think`.
        name: A kind of `THINK_KINDS`; "auto" is the kind that is found.

    Raises:
        ValueError: If there is no such kind or no tokenizer, or the tokenizer cannot write the
            kind's marks.
    """
    require_think_kind(name)
    if tokenizer is None:
        raise ValueError(
            f"think={name!r}: the model has no tokenizer, so no token of it opens or closes a "
            "think block; put its tokenizer.json beside the weights"
        )
    if name != AUTO and (missing := _not_written(tokenizer, THINK_KINDS[name])):
        raise ValueError(
            f"think={name!r}: this tokenizer ({type(tokenizer).__name__}) cannot write "
            f"{missing!r}; expected a kind whose marks it has: it is taken for "
            f"{_found(tokenizer, str(tokenizer.chat_template)).name!r} by itself"
        )
    tokenizer.think = name


def think_kind(tokenizer: Any) -> ThinkKind:
    """The kind of a tokenizer: the one that was set, or else the one that is found.

    A kind is found if all its tokens are in the vocabulary, or else if the chat template holds the
    text that opens a block. Without either the kind is "think", of which nothing is then written.
    """
    name = getattr(tokenizer, "think", AUTO)
    return _found(tokenizer, str(tokenizer.chat_template)) if name == AUTO else THINK_KINDS[name]


def set_kind(tokenizer: Any) -> str | None:
    """The name of the kind that was set and is another than is found; None without one."""
    found = _found(tokenizer, str(tokenizer.chat_template))
    return None if think_kind(tokenizer) == found else think_kind(tokenizer).name


def knows_marks(tokenizer: Any, kind: ThinkKind) -> bool:
    """Whether a tokenizer's vocabulary or its chat template holds the marks of a kind."""
    return _knows_marks(tokenizer, str(tokenizer.chat_template), kind)


@lru_cache(maxsize=64)
def _found(tokenizer: Any, template: str) -> ThinkKind:
    marked = [kind for kind in _TABLE if kind.opening]
    by_tokens = [kind for kind in marked if _has_tokens(tokenizer, kind)]
    by_template = [kind for kind in marked if kind.opening in template]
    return next(iter((*by_tokens, *by_template)), USUAL)


@lru_cache(maxsize=64)
def _knows_marks(tokenizer: Any, template: str, kind: ThinkKind) -> bool:
    return bool(kind.opening) and (kind.opening in template or _has_tokens(tokenizer, kind))


def _has_tokens(tokenizer: Any, kind: ThinkKind) -> bool:
    vocabulary = tokenizer.get_vocab()
    return all(token in vocabulary for token in kind.tokens)


def _not_written(tokenizer: Any, kind: ThinkKind) -> str | None:
    """A mark of a kind that a tokenizer cannot write."""
    vocabulary = tokenizer.get_vocab()
    for token in () if kind.spelled else kind.tokens:
        if token not in vocabulary:
            return token
    for text in kind.texts:
        if text not in tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)):
            return text
    return None


def kind_of_text(text: str) -> ThinkKind:
    """The kind whose mark comes first in a text; the usual one in a text without marks."""
    first, found = len(text), USUAL
    for kind in _TABLE:
        for mark in (kind.opening, *kind.closings[-1:]):
            if mark and -1 < (place := text.find(mark)) < first:
                first, found = place, kind
    return found


def split_reply(text: str) -> tuple[str, str]:
    """What stands before the reply in a text of any kind, and the reply.

    The reply follows the last mark that ends the thinking. Without such a mark all is reply. Other
    marks are left out of the reply.
    """
    ends = [*_REPLIES.finditer(text)]
    if not ends:
        return "", text
    return text[: ends[-1].start()], MARKUP.sub("", text[ends[-1].end() :])
