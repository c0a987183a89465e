"""Generations under way together: jobs, the cache rows that they share, and what acts on each."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.interventions.protocol import Action, Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.traces.trace import StopReason


@dataclass
class Job:
    """A row with all that the loop needs to go on with it.

    Attributes:
        index: The caller's.
        row: What interventions see.
        sampling: How tokens are drawn.
        actions: What acts on it, in this order.
        stops: Texts and token ids that end it once generated.
        context: Most tokens, prompt and generated.
        wanted: The candidate that the logits would have given without interventions on them.
        seconds: Its share of the time that its batches took.
        stop_reason: Why it ended; None while under way.
    """

    index: int
    row: Row
    sampling: Sampling
    actions: tuple[Action, ...]
    stops: tuple[str | int, ...]
    context: int
    wanted: int | None = None
    seconds: float = 0.0
    stop_reason: StopReason | None = None

    def accept(self, token: int, end_ids: frozenset[int]) -> None:
        """Appends a token, and ends the row where it must end."""
        row = self.row
        row.token_ids.append(token)
        row.candidate = None
        if token in end_ids:
            self.stop_reason = "eos"
        elif self.stops and self._stopped(token):
            self.stop_reason = "stop"
        elif len(row.token_ids) >= row.limit:
            self.stop_reason = "length"
        elif len(row.prompt_ids) + len(row.token_ids) >= self.context:
            self.stop_reason = "context"

    def _stopped(self, token: int) -> bool:
        texts = [stop for stop in self.stops if isinstance(stop, str)]
        if token in self.stops or not texts:
            return token in self.stops
        # A character is at most four tokens of a byte-level vocabulary.
        recent = self.row.token_ids[-4 * max(map(len, texts)) :]
        written = self.row.tokenizer.decode(recent)
        return any(text in written for text in texts)


@dataclass
class View:
    """Jobs whose activations are looked at together, a row of a tensor each."""

    jobs: Sequence[Job]

    @cached_property
    def rows(self) -> list[Row]:
        """Their rows."""
        return [job.row for job in self.jobs]

    @cached_property
    def _plans(self) -> dict[str, list[tuple[Action, list[int]]]]:
        return {}

    def acting(self, what: str, acts: Callable[[Action], bool]) -> list[tuple[Action, list[int]]]:
        """Actions in the order in which they act, each with its jobs' places in this view."""
        if what not in self._plans:
            plan: list[tuple[Action, list[int]]] = []
            for k in range(max((len(job.actions) for job in self.jobs), default=0)):
                places: dict[int, tuple[Action, list[int]]] = {}
                for i, job in enumerate(self.jobs):
                    if k < len(job.actions) and acts(job.actions[k]):
                        action = job.actions[k]
                        places.setdefault(id(action), (action, []))[1].append(i)
                plan += places.values()
            self._plans[what] = plan
        return self._plans[what]

    def apply(
        self,
        plan: Iterable[tuple[Action, list[int]]],
        change: Callable[[Action, Tensor, list[Row]], Tensor],
        tensor: Float[Tensor, "rows ..."],
    ) -> Float[Tensor, "rows ..."]:
        """What a tensor becomes when each action changes its own rows of it."""
        for action, places in plan:
            if len(places) == len(self.jobs):
                tensor = change(action, tensor, self.rows)
                continue
            index = torch.tensor(places, device=tensor.device)
            part = tensor[index]
            changed = change(action, part, [self.rows[i] for i in places])
            if changed is not part:
                tensor = tensor.index_copy(0, index, changed)
        return tensor


@dataclass
class Batch:
    """Jobs under way together.

    Jobs that have read the same tokens, and on whose states nothing has acted yet, share a strand:
    one row of the cache. So a prompt is read once for all its conditions, and these go on together
    until the first step at which they differ.

    Attributes:
        jobs: All of them.
        strands: For each job, which row of the mask, of the cache and of activations is its.
        mask: 1 at real tokens.
        cache: The backend's.
        kept: By layer, outputs at the last position that may yet be recycled.
    """

    jobs: list[Job]
    strands: list[int]
    mask: Int[Tensor, "strands pos"]
    cache: Any
    kept: dict[int, Float[Tensor, "strands 1 d"]] = field(default_factory=dict)

    @cached_property
    def view(self) -> View:
        """The jobs, for what is done to each of them."""
        return View(self.jobs)

    @cached_property
    def states(self) -> View:
        """The strands, for what is done to states; nothing is done where several jobs share."""
        silent = replace(self.jobs[0], actions=())
        rows = [silent] * len(self.mask)
        sharing = Counter(self.strands)
        for strand, job in zip(self.strands, self.jobs, strict=True):
            if sharing[strand] == 1:
                rows[strand] = job
        return View(rows)
