"""The interface between the decode loop and interventions.

The loop keeps a `Row` for every running generation. An `Intervention` is a frozen dataclass of
settings. Bound to a model it becomes an `Action`; the loop calls the action's methods only with the
rows whose condition has this intervention. Neither this module nor any intervention knows the loop.

In every step of a row the loop calls, in this order:

    will_edit    says whether the action will change states while the next token is read
    edit         changes states at the action's hook names while the token is read
    logits       changes the next-token logits
    sampling     changes how the candidate is drawn from the logits
    recycling    says whether a layer runs again, given the candidate or the token read
    replace      replaces the candidate, and may force tokens after it
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.interventions.sampling import Sampling, uniform
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.traces.think_block import boundary_ids, think_ids
from mi_lens.traces.thoughts import ThoughtClass, classify

Trigger = Literal["candidate", "consumed"]


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

        The prompt of a reasoning model opens the block, so it is open from the start until
        "</think>". If the tokenizer has no such token, the block never closes.
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
        """Class of the unfinished thought (the text since the last boundary), by SEAL's rule."""
        boundaries = boundary_ids(self.tokenizer)
        start = len(self.token_ids)
        while start and self.token_ids[start - 1] not in boundaries:
            start -= 1
        return classify(self.tokenizer.decode(self.token_ids[start:]))

    def uniform(self, purpose: str) -> float:
        """A number in [0, 1) that depends on the seed, the prompt, the step and the purpose."""
        return uniform(self.seed, self.prompt_ids, self.step, purpose)

    def note(self, what: str, **details: Any) -> None:
        """Records what an intervention did at this step."""
        self.events.append({"step": self.step, "what": what, **details})


@dataclass(frozen=True)
class Recycling:
    """An instruction to run a block again for a row (`mi_lens.interventions.recycle`).

    Attributes:
        passes: Number of further runs.
        keep_kv: Whether later tokens attend to the keys and values of the first run.
    """

    passes: int
    keep_kv: bool


class Action:
    """What an intervention does on one model. Methods do nothing unless overridden.

    Attributes:
        hook_names: The hook names at which the loop calls `edit`.
        recycled_layer: The layer whose block `recycling` may run again; None if there is none.
        recycled_when: When `recycling` is asked: "consumed" means while a token is read,
            "candidate" means once a candidate is drawn.
    """

    hook_names: Sequence[str] = ()
    recycled_layer: int | None = None
    recycled_when: Trigger = "candidate"

    def edit(
        self, hook_name: str, states: Float[Tensor, "rows pos d"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos d"]:
        """New states at a hook name; the last `row.reading` positions of a row are its tokens."""
        return states

    def will_edit(self, row: Row) -> bool:
        """Whether the action may change states while the row reads its current tokens.

        If it does not, the row shares its state with other conditions of the same prompt. The
        default is True for an action that has hook names or recycles consumed tokens.
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
        """How the block of `recycled_layer` runs again for the row now; None if it does not."""
        return None

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """The token to accept; may add to `row.forced`. The tokens `end_ids` end a generation."""
        return candidate


@runtime_checkable
class Intervention(Protocol):
    """A frozen dataclass of JSON-able settings that can act on a model.

    To write your own, subclass this and `Action`, and put an instance into a `Condition`.
    """

    def bind(self, model: Model) -> Action:
        """The intervention's action on a model.

        Raises:
            ValueError: If a layer, hook name, word or width does not fit the model.
        """
        ...

    def check(self, problem: Problem) -> None:
        """Raises a ValueError if the intervention must not be tried on the problem."""
        return

    def to_json(self) -> dict[str, Any]:
        """JSON-able settings, without the name of the class."""
        ...


def positions(
    rows: Sequence[Row], width: int, wanted: Callable[[Row, int, int], bool]
) -> Bool[Tensor, "rows pos"]:
    """A mask of the wanted positions of left-padded states.

    Args:
        rows: The rows of the states.
        width: Number of positions of the states.
        wanted: Called with a row, a token that the row reads now, and the number of generated
            tokens up to and including that token. The number is 0 for the last token of the prompt,
            and negative for the tokens before it.
    """
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens = row.read()
        for k, token in enumerate(tokens, start=1 - len(tokens)):
            mask[i, width - 1 + k] = wanted(row, token, len(row.token_ids) + k)
    return mask
