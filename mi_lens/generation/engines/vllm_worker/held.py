"""A request that vLLM runs here: its row, its actions, and how far it was read.

vLLM may read a prompt in chunks, and may read a text again that it dropped from its cache. What
actions did to states at the first reading they do again at every later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.generation.drawing import accept
from mi_lens.generation.engines.vllm_worker.parts import Piece
from mi_lens.generation.engines.vllm_worker.watch import Watch
from mi_lens.generation.jobs import Job
from mi_lens.interventions.again import Recycling
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.row import Rewound, Row


def has_left(job: Job) -> bool:
    """Whether a request with trials has ended, or goes on as another from an earlier step."""
    return job.stop_reason is not None or job.taken_back > 0


def accepted(job: Job, end_ids: frozenset[int]) -> int:
    """The token that a request accepts, as vLLM is told it.

    Of a request with trials it is told an end where the row ends or takes tokens back. The request
    is then asked for, and given again from there.
    """
    end = next(iter(end_ids), 0)
    if job.tries and has_left(job):  # vLLM may go on for a step.
        return end
    token = accept(job, end_ids)
    return end if job.tries and has_left(job) else token


@dataclass(eq=False)
class Held:
    """A request under way.

    Attributes:
        job: Its row, with all tokens drawn so far, and its actions.
        prompt: How many positions its first step reads: the prompt's and the prefix's.
        read: How many positions were read so far.
        failure: Why it cannot go on; empty while it can.
        is_trial: Whether it is there to try the layers (`trial`).
        watch: Keeps states, if the text is read to be measured; it then gives no token.
    """

    job: Job
    prompt: int
    read: int = 0
    failure: str = ""
    is_trial: bool = False
    watch: Watch | None = None

    def catch_up(self, drawn: Sequence[int]) -> None:
        """Takes over tokens that another process drew, where layers lie in several."""
        row = self.job.row
        if self.job.tries:  # Its layers lie in one, and it may have taken tokens back.
            return
        row.token_ids += drawn[len(row.prompt_ids) + len(row.token_ids) - self.prompt :]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a step reads of one request.

    Attributes:
        held: The request.
        piece: The positions.
        old: How many of them, from the first on, were read before.
        decodes: Whether the last of them is that of a generated token, read for the first time.
        emits: Whether the last of them gives a token.
    """

    held: Held
    piece: Piece
    old: int
    decodes: bool
    emits: bool

    @property
    def last(self) -> Piece:
        """Its last position."""
        piece = self.piece
        if piece.count == 1:
            return piece
        behind = piece.count - 1
        return Piece(piece.place, piece.start + behind, piece.first + behind)

    @property
    def chunk(self) -> Piece | None:
        """The positions of the prompt and those that are read again; None if there are none."""
        piece = self.piece
        count = piece.count - self.decodes
        return replace(piece, count=count) if count else None

    @cached_property
    def rewound(self) -> Rewound:
        """The row, put back to where it was when it read these positions first."""
        row = self.held.job.row
        again = replace(row, token_ids=list(row.token_ids), events=[])
        return Rewound(again, self.held.prompt, row.events)

    @cached_property
    def recycled(self) -> dict[int, dict[int, Recycling]]:
        """By layer and position, how blocks ran again at positions that are read again."""
        told: dict[int, dict[int, Recycling]] = {}
        again = range(self.piece.first, self.piece.first + self.old)
        for action in self.held.job.actions if self.old else ():
            if action.recycled_layer is not None:
                of_layer = told.setdefault(action.recycled_layer, {})
                events = action.recycled_again(self.rewound)
                of_layer |= {at: how for at, how in events.items() if at in again}
        return told

    def edited(
        self, name: str, states: Float[Tensor, "pos d"], first: int
    ) -> Float[Tensor, "pos d"]:
        """States of the chunk from a position on, as the actions at a hook name make them."""
        states = states[None]
        known = min(max(self.piece.first + self.old - first, 0), states.shape[1])
        for action in self.held.job.actions:
            if name in action.hook_names:
                parts = []
                if known:
                    parts.append(action.edit_again(name, states[:, :known], self.rewound, first))
                if known < states.shape[1]:
                    parts.append(
                        self._prompt_edited(action, name, states[:, known:], first + known)
                    )
                states = torch.cat(parts, dim=1)
        return states[0]

    def edited_again(
        self, name: str, states: Float[Tensor, "pos d"], first: int
    ) -> Float[Tensor, "pos d"]:
        """States that were read before, and perhaps that of a token which is read now, edited."""
        known = min(self.piece.first + self.old - first, len(states))
        parts = [self.edited(name, states[:known], first)] if known else []
        if known < len(states):  # The last position of the step.
            row, state = self.held.job.row, states[None, known:]
            for action in self.held.job.actions:
                if name in action.hook_names:
                    state = action.edit(name, state, [row])
            parts.append(state[0])
        return torch.cat(parts)

    def _prompt_edited(
        self, action: Action, name: str, states: Float[Tensor, "1 pos d"], first: int
    ) -> Float[Tensor, "1 pos d"]:
        """States of a chunk of the prompt; events are those of the whole prompt, at its end."""
        length, stop = self.held.prompt, first + states.shape[1]
        row = self.held.job.row
        row.reading = length
        if not action.will_edit(row):
            return states
        if stop < length:
            row = _without_events(row)
        whole = states.new_zeros(1, length, *states.shape[2:])
        whole[:, first:stop] = states
        return action.edit(name, whole, [row])[:, first:stop]


def _without_events(row: Row) -> Row:
    return replace(row, events=[])
