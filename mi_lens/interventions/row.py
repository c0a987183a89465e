"""A running generation, as interventions see it."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.interventions.sampling import uniform_key, uniforms
from mi_lens.traces.think_block import completes_blank_line, mark_completed, opened_by
from mi_lens.traces.thoughts import ThoughtClass, classify
from mi_lens.traces.trace import Trace

CHANCE = "chance"  # The number that is measured at each step of a trial.


@dataclass
class Trial:
    """Tokens that a row only tries: they are taken back when an action is done with them.

    While they are written, no other action replaces a token; tokens are drawn greedily; and neither
    the budget, nor an end or stop, ends the row.

    Attributes:
        by: The action.
        start: The step at which they begin.
        held: The candidate in whose place the first of them stands.
        events: What interventions had done before.
        numbers: What was measured at the step at which they begin (`Row.numbers`).
        chances: Natural logarithm of the largest next-token probability, for each token drawn.
    """

    by: Any
    start: int
    held: int
    events: list[dict[str, Any]]
    numbers: dict[str, float]
    chances: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One running generation, as interventions see it.

    Attributes:
        tokenizer: The model's tokenizer.
        prompt_ids: Token ids of the prompt, without padding.
        seed: The seed of the request.
        limit: Maximum number of generated tokens.
        token_ids: The tokens generated so far, including the prefix of the request.
        reading: Number of last tokens that are being read now: all of them in the first step, one
            in later steps.
        candidate: The token that was drawn from the logits and is not yet accepted.
        forced: Tokens that are emitted next, whatever the logits are.
        events: What interventions did, one JSON-able mapping per event; stored in the trace.
        measuring: What was measured at the step under way, by name; each number on its device.
        numbers: The same on the host, once the step's candidate is drawn; empty before.
        numbers_before: Those of the step that emitted the token which was read last.
        told: If the row is read again, where gates were open: gate, what it acted on, and step.
            None while the row is generated.
        trial: The tokens that are only tried now; None if none are.
    """

    tokenizer: Any
    prompt_ids: tuple[int, ...]
    seed: int
    limit: int
    token_ids: list[int] = field(default_factory=list)
    reading: int = 0
    candidate: int | None = None
    forced: deque[int] = field(default_factory=deque)
    events: list[dict[str, Any]] = field(default_factory=list)
    measuring: dict[str, Float[Tensor, ""]] = field(default_factory=dict, repr=False)
    numbers: dict[str, float] = field(default_factory=dict, repr=False)
    numbers_before: dict[str, float] = field(default_factory=dict, repr=False)
    told: frozenset[tuple[str, str, int]] | None = field(default=None, repr=False)
    trial: Trial | None = None
    # After so many generated tokens, whether the think block is open; filled as it is asked.
    _open: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)
    # By purpose, the key of the row's random numbers.
    _keys: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def step(self) -> int:
        """Index of the next generated token."""
        return len(self.token_ids)

    @property
    def consumed(self) -> int:
        """The token that was read last."""
        return self.token_ids[-1] if self.token_ids else self.prompt_ids[-1]

    def read(self) -> Sequence[int]:
        """The tokens that are being read now; in the first step these include the prompt."""
        if self.reading <= len(self.token_ids):
            return self.token_ids[len(self.token_ids) - self.reading :]
        return [*self.prompt_ids, *self.token_ids][-self.reading :]

    def thinking(self, generated: int | None = None) -> bool:
        """Whether the think block is open after a number of generated tokens (None means all).

        See `mi_lens.traces.think_block.opened_by` for the start. From there on the marks decide
        that the tokenizer's kind of think block has, each of one token or of several.
        """
        count = len(self.token_ids) if generated is None else min(generated, len(self.token_ids))
        if not self._open:
            self._open.append(opened_by(self.tokenizer, self.prompt_ids))
        for place in range(len(self._open) - 1, count):
            opens = mark_completed(self.tokenizer, self.token_ids, place)
            self._open.append(self._open[-1] if opens is None else opens)
        return self._open[count]

    def cut(self, generated: int) -> None:
        """Takes back all generated tokens but the first few."""
        del self.token_ids[generated:]
        del self._open[generated + 1 :]

    @property
    def thought(self) -> ThoughtClass:
        """Class of the unfinished thought (the text since the last boundary), by SEAL's rule."""
        start = len(self.token_ids)
        while start and not completes_blank_line(self.tokenizer, self.token_ids, start - 1):
            start -= 1
        return classify(self.tokenizer.decode(self.token_ids[start:]))

    def at_boundary(self, generated: int) -> bool:
        """Whether a token completes a blank line, counted as in `positions`."""
        ids, place = self.token_ids, generated - 1
        if generated < 1:
            ids, place = self.prompt_ids, len(self.prompt_ids) + generated - 1
        return completes_blank_line(self.tokenizer, ids, place)

    def uniform(self, purpose: str) -> float:
        """A number in [0, 1) that depends on the seed, the prompt, the step and the purpose."""
        return float(self.uniforms(purpose, 1)[0])

    def uniforms(self, purpose: str, count: int) -> Float[np.ndarray, " count"]:
        """The numbers of `uniform` for the present step and those after it."""
        if purpose not in self._keys:
            self._keys[purpose] = uniform_key(self.seed, self.prompt_ids, purpose)
        return uniforms(self._keys[purpose], self.step, count)

    def write(self, what: str, candidate: int, tokens: Sequence[int]) -> int:
        """Puts a text in the place of a candidate: gives its first token, and forces the others."""
        self.note(what, wanted=candidate, emitted=tokens[0])
        self.forced.extend(tokens[1:])
        return tokens[0]

    def attempt(self, by: Any, candidate: int, tokens: Sequence[int]) -> int:
        """Begins a trial in a candidate's place, with these tokens; gives the first of them."""
        events = [dict(event) for event in self.events]
        self.trial = Trial(by, self.step, candidate, events, self.numbers)
        self.forced.extend(tokens[1:])
        return tokens[0]

    def take_back(self) -> Trial:
        """Ends the trial: tokens, events and numbers are those of before."""
        trial, self.trial = self.trial, None
        assert trial is not None
        self.cut(trial.start)
        self.events[:] = trial.events
        self.numbers = trial.numbers
        return trial

    def note(self, what: str, **details: Any) -> None:
        """Records what an intervention did at this step."""
        self.events.append({"step": self.step, "what": what, **details})


class Rewound:
    """A row whose tokens are known, put back to where it was when it read each of them.

    Args:
        row: A row of its own, with all its tokens.
        first: How many positions the first step of the generation read: the prompt's, and those of
            the request's prefix.
        events: What interventions did to the row; None if it was not generated.
    """

    def __init__(self, row: Row, first: int, events: Sequence[dict[str, Any]] | None = None):
        self.row, self.first, self.events = row, first, events or ()
        row.told = None if events is None else _gates_open(events)
        self.candidate = row.candidate
        self._tokens = list(row.token_ids)

    @classmethod
    def of(cls, tokenizer: Any, trace: Trace) -> "Rewound":
        """The row that a trace was."""
        row = Row(tokenizer, trace.prompt_ids, trace.seed, len(trace), list(trace.token_ids))
        return cls(row, len(trace.prompt_ids) + trace.condition.get("prefix", 0), trace.events)

    @property
    def ids(self) -> list[int]:
        """The tokens of the prompt and those that follow."""
        return [*self.row.prompt_ids, *self._tokens]

    @property
    def length(self) -> int:
        """How many tokens these are."""
        return len(self.row.prompt_ids) + len(self._tokens)

    def put(self, position: int, token: int) -> None:
        """Puts a token behind those before a position."""
        self._tokens[position - len(self.row.prompt_ids) :] = [token]

    def steps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The positions from `start` to `stop`, in the parts in which the generation read them.

        Each part is given as its first position and the position after its last. While it is
        given, `row` is as it was in that step, which may have read more positions.
        """
        if start < self.first:
            self.at(self.first, reading=self.first)
            yield start, min(stop, self.first)
        for position in range(max(start, self.first), stop):
            self.at(position + 1)
            yield position, position + 1

    def at(self, read: int, *, reading: int = 1) -> Row:
        """The row after so many positions were read, of which `reading` in the last step."""
        held, wanted = self.row.token_ids, read - len(self.row.prompt_ids)
        self.row.cut(wanted)
        held += self._tokens[len(held) : wanted]
        self.row.reading, self.row.candidate = reading, None
        return self.row


def _gates_open(events: Sequence[dict[str, Any]]) -> frozenset[tuple[str, str, int]]:
    return frozenset(
        (event["gate"], event["on"], step)
        for event in events
        if event["what"] == "gate"
        for step in range(event["step"], event["last"] + 1)
    )


def positions(
    rows: Sequence[Row], width: int, wanted: Callable[[Row, int, int], bool]
) -> Bool[Tensor, "rows pos"]:
    """A mask of the wanted positions of left-padded states.

    Args:
        rows: The rows of the states.
        width: Number of positions of the states; the last ones, if rows read more.
        wanted: Called with a row, a token that the row reads now, and the number of generated
            tokens up to and including that token. The number is 0 for the last token of the prompt,
            and negative for the tokens before it.
    """
    read = [wanted_of(row, wanted) for row in rows]
    padded = [[False] * (width - len(of_row)) + of_row[-width:] for of_row in read]
    return torch.tensor(padded, dtype=torch.bool).reshape(len(rows), width)


def wanted_of(row: Row, wanted: Callable[[Row, int, int], bool]) -> list[bool]:
    """For every token that a row reads now, whether it is wanted; `wanted` as in `positions`."""
    tokens = row.read()
    return [
        wanted(row, token, len(row.token_ids) + k)
        for k, token in enumerate(tokens, start=1 - len(tokens))
    ]
