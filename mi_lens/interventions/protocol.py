"""What the decode loop and an intervention know of each other.

The loop keeps a `Row` for every generation under way. An `Intervention` is a frozen dataclass of
settings; bound to a model it becomes an `Action`, whose methods the loop calls with the rows that
asked for it and no others. Nothing here or in any intervention knows the loop.

In every step of a row, in this order:

    will_edit    whether it will change states while the next token is read
    edit         states at the action's hook names, while the token is read
    logits       next-token logits
    sampling     how the candidate is drawn from them
    recycling    which layer runs again, given the candidate (or the token read)
    replace      another token in the candidate's place, and what is forced after it
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.interventions.sampling import Sampling, uniform
from mi_lens.problems.problem import Problem
from mi_lens.traces.think_block import boundary_ids, think_ids
from mi_lens.traces.thoughts import ThoughtClass, classify

Trigger = Literal["candidate", "consumed"]


@dataclass
class Row:
    """One generation under way, as interventions see it.

    Attributes:
        tokenizer: The model's.
        prompt_ids: Without padding.
        seed: The request's.
        limit: Most tokens that it may generate.
        token_ids: Generated so far, including a prefix that the request brought.
        reading: How many of its last tokens are being read now: all of them in the first step,
            then one.
        candidate: The token drawn from the logits and not yet accepted.
        forced: Tokens that come next, whatever the logits say.
        events: What interventions did, a JSON-able mapping each; ends in the trace.
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

    @property
    def step(self) -> int:
        """Index of the token that is chosen next."""
        return len(self.token_ids)

    @property
    def consumed(self) -> int:
        """The token just read."""
        return self.token_ids[-1] if self.token_ids else self.prompt_ids[-1]

    def read(self) -> Sequence[int]:
        """The tokens being read now, the prompt's among them in the first step."""
        if self.reading <= len(self.token_ids):
            return self.token_ids[len(self.token_ids) - self.reading :]
        return [*self.prompt_ids, *self.token_ids][-self.reading :]

    def thinking(self, generated: int | None = None) -> bool:
        """Whether the think block is open after so many generated tokens (all, if None).

        The prompt of a reasoning model opens the block, so it is open from the start until
        "</think>", and without end for a tokenizer that has no such token.
        """
        marks = think_ids(self.tokenizer)
        if marks is None:
            return True
        for token in reversed(self.token_ids[:generated]):
            if token in marks:
                return token == marks[0]
        return True

    @property
    def thought(self) -> ThoughtClass:
        """Class of the thought so far, by SEAL's rule: the text since the last boundary."""
        boundaries = boundary_ids(self.tokenizer)
        start = len(self.token_ids)
        while start and self.token_ids[start - 1] not in boundaries:
            start -= 1
        return classify(self.tokenizer.decode(self.token_ids[start:]))

    def uniform(self, purpose: str) -> float:
        """A number in [0, 1) that depends on the seed, the prompt, the step and the purpose."""
        return uniform(self.seed, self.prompt_ids, self.step, purpose)

    def note(self, what: str, **details: Any) -> None:
        """Writes down what an intervention did at this step."""
        self.events.append({"step": self.step, "what": what, **details})


@dataclass(frozen=True)
class Recycling:
    """An order to run a block again for a row (`mi_lens.interventions.recycle`)."""

    passes: int
    keep_kv: bool


class Action:
    """What an intervention does on one model; every method does nothing unless overridden.

    Attributes:
        hook_names: Where `edit` wants to be called.
        recycled_layer: The layer whose block `recycling` may ask to run again; None for none.
        recycled_when: "consumed", while a token is read, or "candidate", once one is drawn.
    """

    hook_names: Sequence[str] = ()
    recycled_layer: int | None = None
    recycled_when: Trigger = "candidate"

    def edit(
        self, hook_name: str, states: Float[Tensor, "rows pos d"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos d"]:
        """New states at a hook name; the last `row.reading` positions of each are the row's."""
        return states

    def will_edit(self, row: Row) -> bool:
        """Whether states may be changed while the row reads what it reads now.

        Where not, its state is shared with the same prompt's other conditions. By default, True
        for an action that has hook names, or recycles what is consumed.
        """
        consumes = self.recycled_layer is not None and self.recycled_when == "consumed"
        return bool(self.hook_names) or consumes

    def logits(
        self, logits: Float[Tensor, "rows d_vocab"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows d_vocab"]:
        """New next-token logits."""
        return logits

    def sampling(self, row: Row, sampling: Sampling) -> Sampling:
        """How the row's next token is drawn."""
        return sampling

    def recycling(self, row: Row) -> Recycling | None:
        """Whether the block of `recycled_layer` runs again for the row, now."""
        return None

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """The token to accept; may add to `row.forced`. `end_ids` end a generation."""
        return candidate


@runtime_checkable
class Intervention(Protocol):
    """A frozen dataclass of JSON-able settings that can act on a model.

    A model of one's own: subclass this and `Action`, and put an instance into a `Condition`.
    """

    def bind(self, model: Any) -> Action:
        """The action on a model.

        Raises:
            ValueError: A layer, hook name, word or width does not fit the model.
        """
        ...

    def check(self, problem: Problem) -> None:
        """Refuses a problem that this must not be tried on, with a ValueError."""
        return

    def to_json(self) -> dict[str, Any]:
        """JSON-able settings, without the name of the class."""
        ...


def positions(
    rows: Sequence[Row], width: int, wanted: Callable[[Row, int, int], bool]
) -> Bool[Tensor, "rows pos"]:
    """Which positions of left-padded states are wanted.

    Args:
        rows: The rows of the states.
        width: Positions of the states.
        wanted: Asked with a row, a token that it reads now, and how many tokens the row has
            generated up to and with that one; 0 and less in the prompt, whose last is 0.
    """
    chosen = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens = row.read()
        for k, token in enumerate(tokens, start=1 - len(tokens)):
            chosen[i, width - 1 + k] = wanted(row, token, len(row.token_ids) + k)
    return chosen
