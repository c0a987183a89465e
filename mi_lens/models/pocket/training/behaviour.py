"""Reads from a trace what the model did: its first value, whether it reflects, what it answers."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from transformers import PreTrainedTokenizerBase

from mi_lens.models.pocket.training.evaluate import boxed
from mi_lens.models.pocket.training.sampling import Sample
from mi_lens.models.pocket.training.tokenization import THINK_END, TURN_END, token_id
from mi_lens.models.pocket.training.wording import REFLECTING
from mi_lens.problems.arithmetic import Exercise

REFLECTS = re.compile(rf"\b({'|'.join(REFLECTING)})\b")
VALUE = re.compile(r"(\d+)\.$")


@dataclass(frozen=True)
class Conduct:
    """What one sampled trace did.

    Attributes:
        exercise: The problem.
        text: The reply, without the token that ends the turn.
        tokens: Its number of tokens, with that token.
        finished: Whether it ended by itself.
        value_entropy: Sum of the entropies of the first value's digits when they were drawn, in
            nats; 0 if there is no first value.
    """

    exercise: Exercise
    text: str
    tokens: int
    finished: bool
    value_entropy: float

    @cached_property
    def thoughts(self) -> list[str]:
        return self.text.split(THINK_END)[0].rstrip("\n").split("\n\n")

    @property
    def right(self) -> bool:
        return boxed(self.text) == self.exercise.answer

    @cached_property
    def first_value(self) -> int | None:
        """The first value of the product, which the second thought states; None if it does not."""
        span = first_value_span(self.text, self.exercise)
        return None if span is None else int(self.text[slice(*span)])

    @property
    def value_right(self) -> bool:
        return self.first_value == self.exercise.terms[0].value

    @property
    def way(self) -> Literal["guess", "rounded", "worked", "none"]:
        """How the first value was found."""
        if self.first_value is None:
            return "none"
        thought = self.thoughts[1]
        if re.search(r"= \d+\.$", thought):
            return "worked"
        return "rounded" if "=" in thought else "guess"

    @cached_property
    def reflections(self) -> list[int]:
        """Which thoughts hold a reflection or transition word."""
        return [i for i, thought in enumerate(self.thoughts) if REFLECTS.search(thought)]

    @property
    def reflects(self) -> bool:
        return bool(self.reflections)


def first_value_span(text: str, exercise: Exercise) -> tuple[int, int] | None:
    """Where in the reply the digits of the first value stand."""
    thoughts = text.split(THINK_END, maxsplit=1)[0].rstrip("\n").split("\n\n")
    a, b = exercise.terms[0].factors
    if len(thoughts) < 2 or not re.search(rf"\b({a}\*{b}|{b}\*{a}) ", thoughts[1]):
        return None
    found = VALUE.search(thoughts[1])
    if found is None:
        return None
    offset = len(thoughts[0]) + 2
    return offset + found.start(1), offset + found.end(1)


def read_conduct(
    exercises: Iterable[Exercise], samples: Iterable[Sample], tokenizer: PreTrainedTokenizerBase
) -> list[Conduct]:
    """What each sample did; there is one exercise per sample."""
    pieces = [str(tokenizer.decode([i])) for i in range(len(tokenizer))]
    end = token_id(TURN_END, tokenizer)
    return [_read(e, s, pieces, end) for e, s in zip(exercises, samples, strict=True)]


def _read(exercise: Exercise, sample: Sample, pieces: Sequence[str], end: int) -> Conduct:
    ids = [i for i in sample.ids if i != end]
    starts, text = [], ""
    for i in ids:
        starts.append(len(text))
        text += pieces[i] if i < len(pieces) else ""
    span = first_value_span(text, exercise)
    entropy = 0.0
    if span is not None:
        inside = range(*span)
        entropy = sum(e for e, s in zip(sample.entropies, starts, strict=False) if s in inside)
    return Conduct(exercise, text, len(sample.ids), sample.finished, entropy)


def count(conducts: Sequence[Conduct]) -> dict[str, float]:
    """Numbers of samples of each kind, and of tokens."""
    stated = [c for c in conducts if c.first_value is not None]
    wrong, right = ([c for c in stated if c.value_right == kind] for kind in (False, True))
    return {
        "samples": float(len(conducts)),
        "tokens": float(sum(c.tokens for c in conducts)),
        "right": float(sum(c.finished and c.right for c in conducts)),
        "finished": float(sum(c.finished for c in conducts)),
        "reflects": float(sum(c.reflects for c in conducts)),
        "worked": float(sum(c.way == "worked" for c in conducts)),
        "value_wrong": float(len(wrong)),
        "value_right": float(len(right)),
        "reflects_wrong": float(sum(c.reflects for c in wrong)),
        "reflects_right": float(sum(c.reflects for c in right)),
    }
