"""Generations under way together: jobs, the cache rows that they share, and what acts on each."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.candidates import Candidates
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.backends.protocol import Backend
from mi_lens.models.model import Model
from mi_lens.traces.trace import StopReason


@dataclass
class Job:
    """A row with all that the loop needs to continue it.

    Attributes:
        index: The number that the caller knows the job by.
        row: What interventions see.
        sampling: How tokens are drawn.
        actions: What acts on the row, in this order.
        stops: Texts and token ids that end the row once generated.
        context: The most tokens that prompt and generated tokens may be together.
        wanted: The candidate that the logits would have given without interventions on them.
        seconds: The job's share of the time that its batches took.
        stop_reason: Why the row ended; None while it is under way.
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

    @property
    def will_edit(self) -> bool:
        """Whether an action may change the row's states while it reads what it reads now."""
        return any(action.will_edit(self.row) for action in self.actions)

    def sampling_now(self) -> Sampling:
        """How the next token is drawn, as the actions have it."""
        sampling = self.sampling
        for action in self.actions:
            sampling = action.sampling(self.row, sampling)
        return sampling

    def accept(self, token: int, end_ids: frozenset[int]) -> None:
        """Appends a token, and ends the row if the token or a limit ends it."""
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
class Turn:
    """An action, and the jobs of a view on which it acts at the same time.

    Attributes:
        action: The action.
        places: The jobs' places in the view.
        rows: Their rows.
    """

    action: Action
    places: list[int]
    rows: list[Row]


@dataclass
class View:
    """Jobs whose activations are the rows of one tensor, in this order."""

    jobs: Sequence[Job]

    @cached_property
    def rows(self) -> list[Row]:
        """The jobs' rows."""
        return [job.row for job in self.jobs]

    @cached_property
    def _plans(self) -> dict[str, list[Turn]]:
        return {}

    @cached_property
    def candidates(self) -> Candidates:
        """What the jobs draw."""
        return Candidates(self.rows)

    def acting(self, what: str, acts: Callable[[Action], bool]) -> list[Turn]:
        """Actions in the order in which they act, each with its jobs in this view.

        Args:
            what: Names the question that `acts` answers; the view remembers the answers by it.
            acts: Whether an action takes part.
        """
        if what not in self._plans:
            plan: list[Turn] = []
            for turn in range(max((len(job.actions) for job in self.jobs), default=0)):
                entries: dict[int, Turn] = {}
                for place, job in enumerate(self.jobs):
                    if turn < len(job.actions) and acts(job.actions[turn]):
                        action = job.actions[turn]
                        entry = entries.setdefault(id(action), Turn(action, [], []))
                        entry.places.append(place)
                        entry.rows.append(job.row)
                plan += entries.values()
            self._plans[what] = plan
        return self._plans[what]

    def apply(
        self,
        plan: Iterable[Turn],
        change: Callable[[Action, Tensor, list[Row]], Tensor],
        tensor: Float[Tensor, "rows ..."],
    ) -> Float[Tensor, "rows ..."]:
        """What a tensor becomes when each action changes its own rows of it."""
        for turn in plan:
            if len(turn.places) == len(self.jobs):
                tensor = change(turn.action, tensor, turn.rows)
                continue
            index = on_device(tuple(turn.places), tensor.device)
            part = tensor[index]
            changed = change(turn.action, part, turn.rows)
            if changed is not part:
                tensor = tensor.index_copy(0, index, changed)
        return tensor


@dataclass
class Batch:
    """Jobs under way together.

    Jobs that have read the same tokens, and on whose states nothing has acted yet, share a strand:
    one row of the cache. So a prompt is read once for all its conditions, and these go on together
    until the first step at which they differ.

    The cache is changed in place: after `regrouped` or `joined`, use the new batch only.

    Attributes:
        model: A HookedTransformer or TransformerBridge.
        backend: The functions that drive the model.
        jobs: All jobs.
        strands: The strand of each job: its row of the mask, of the cache and of activations.
        mask: 1 at real tokens, 0 at padding; on the CPU.
        cache: The backend's cache.
    """

    model: Model
    backend: Backend
    jobs: list[Job]
    strands: list[int]
    mask: Int[Tensor, "strands pos"]
    cache: Any

    @cached_property
    def job_view(self) -> View:
        """One row per job, for what is done to each of them."""
        return View(self.jobs)

    @cached_property
    def strand_view(self) -> View:
        """One row per strand, for what is done to states; no action where several jobs share."""
        silent = replace(self.jobs[0], actions=())
        jobs = [silent] * len(self.mask)
        sharing = Counter(self.strands)
        for strand, job in zip(self.strands, self.jobs, strict=True):
            if sharing[strand] == 1:
                jobs[strand] = job
        return View(jobs)

    def by_job(self, logits: Float[Tensor, "strands d_vocab"]) -> Float[Tensor, "jobs d_vocab"]:
        """A row for each job."""
        if self.strands == list(range(len(logits))):
            return logits
        return logits[on_device(tuple(self.strands), logits.device)]

    def last_tokens(self) -> Int[Tensor, "strands 1"]:
        """The last token of every strand, which is on the device already if it was drawn there."""
        ids = [job.row.token_ids[-1] for job in self.jobs]
        job_of = dict(zip(reversed(self.strands), reversed(range(len(ids))), strict=True))
        places = [job_of.get(strand, 0) for strand in range(len(self.mask))]
        drawn = self.job_view.candidates
        if drawn.tokens is None or drawn.ids != ids:
            last = [[ids[place]] for place in places]
            return torch.tensor(last, device=self.model.cfg.device)
        if places == list(range(len(ids))):
            return drawn.tokens[:, None]
        return drawn.tokens[on_device(tuple(places), drawn.tokens.device), None]

    def regrouped(self, keys: Mapping[int, Hashable]) -> "Batch":
        """Some of the jobs; those of one strand are parted where their keys differ.

        A few strands without a job stay until the cache is copied anyway, and are read in vain.

        Args:
            keys: By the place of each job that stays, what it shares a strand by.
        """
        strand_numbers: dict[tuple[int, Hashable], int] = {}
        strands = [
            strand_numbers.setdefault((self.strands[place], key), len(strand_numbers))
            for place, key in keys.items()
        ]
        jobs = [self.jobs[place] for place in keys]
        sources = [source for source, _ in strand_numbers]
        size, width = self.mask.shape
        idle = size - len(sources)
        nothing_parts = len(set(sources)) == len(sources)
        if nothing_parts and (idle == 0 or (width < self.model.cfg.n_ctx and idle <= size // 8)):
            if len(jobs) == len(self.jobs):
                return self
            return replace(self, jobs=jobs, strands=[self.strands[place] for place in keys])
        self.backend.keep_rows(self.cache, on_device(tuple(sources), self.model.cfg.device))
        parted = replace(self, jobs=jobs, strands=strands, mask=self.mask[sources])
        return parted._trimmed()

    def _trimmed(self) -> "Batch":
        """Without the leading positions that are padding in every strand."""
        padding = int(self.mask.amax(0).argmax())
        if not padding:
            return self
        self.backend.trim(self.cache, padding)
        return replace(self, mask=self.mask[:, padding:])

    def joined(self, other: "Batch") -> "Batch":
        """The jobs of both batches."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [
            torch.nn.functional.pad(mask, (width - mask.shape[1], 0))
            for mask in (self.mask, other.mask)
        ]
        self.backend.join(self.cache, other.cache)
        jobs = [*self.jobs, *other.jobs]
        strands = [*self.strands, *(len(self.mask) + strand for strand in other.strands)]
        return replace(self, jobs=jobs, strands=strands, mask=torch.cat(masks))


class CurrentPass:
    """What the model computes at this moment.

    Hooks stay attached for many passes, which is faster than to attach them for each. They are
    given this object, in which they see whose states they get.

    Attributes:
        batch: The batch whose cache is read.
        view: The jobs whose states hooks get: the batch's strands, or jobs that run onward from a
            recycled layer.
        outputs: By layer, outputs at the last position that a candidate may ask to run again.
    """

    batch: Batch
    view: View

    def __init__(self):
        self.outputs: dict[int, Float[Tensor, "strands 1 d"]] = {}

    def start(self, batch: Batch, view: View) -> None:
        """A pass over a view of a batch begins."""
        self.batch, self.view = batch, view

    @property
    def reads_tokens(self) -> bool:
        """Whether the batch reads tokens, and not some of its jobs run onward from a layer."""
        return self.view is self.batch.strand_view
