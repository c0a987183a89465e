"""Generations under way together: jobs, and the cache rows that they share."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.jobs import Job, View
from mi_lens.models.backends.protocol import Backend
from mi_lens.models.model import Model


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
        jobs = list(self.silent_view.jobs)
        sharing = Counter(self.strands)
        for strand, job in zip(self.strands, self.jobs, strict=True):
            if sharing[strand] == 1:
                jobs[strand] = job
        return View(jobs)

    @property
    def silent_view(self) -> View:
        """One row per strand, on which nothing acts."""
        return View([replace(self.jobs[0], actions=())] * len(self.mask))

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

    def regrouped(self, keys: Mapping[int, Hashable], spare: int = 0) -> "Batch":
        """Some of the jobs; those of one strand are parted where their keys differ.

        A strand keeps its row of the cache; one that parts from it gets a copy in an idle row. A
        few rows may stay idle, and are read in vain.

        Args:
            keys: By the place of each job that stays, what it shares a strand by.
            spare: How many more rows may stay idle, because newcomers will take them.
        """
        rows: dict[tuple[int, Hashable], int] = {}  # The row of each strand.
        parting: list[tuple[int, Hashable]] = []
        for place, key in keys.items():
            strand = self.strands[place], key
            if strand not in rows and strand[0] not in rows.values():
                rows[strand] = strand[0]
            elif strand not in rows and strand not in parting:
                parting.append(strand)
        size, width = self.mask.shape
        idle = sorted(set(range(size)) - set(rows.values()))
        left = len(idle) - len(parting)
        if left < 0 or left > (size // 8 + spare if width < self.model.cfg.n_ctx else 0):
            return self._copied(keys, [*rows, *parting])
        if not parting and len(keys) == len(self.jobs):
            return self
        mask = self.mask
        if parting:
            sources, targets = [source for source, _ in parting], idle[: len(parting)]
            self.backend.copy_rows(self.cache, self._index(sources), self._index(targets))
            mask = mask.clone()
            mask[targets] = mask[sources]
            rows |= zip(parting, targets, strict=True)
        return self._of(keys, rows, mask)

    def _copied(
        self, keys: Mapping[int, Hashable], strands: Sequence[tuple[int, Hashable]]
    ) -> "Batch":
        """See `regrouped`: a cache with a row for each of these strands, and no idle one."""
        sources = [source for source, _ in strands]
        self.backend.keep_rows(self.cache, self._index(sources))
        rows = {strand: row for row, strand in enumerate(strands)}
        return self._of(keys, rows, self.mask[sources])._trimmed()

    def _of(
        self,
        keys: Mapping[int, Hashable],
        rows: Mapping[tuple[int, Hashable], int],
        mask: Int[Tensor, "strands pos"],
    ) -> "Batch":
        """The jobs that have a key, each in the row of its strand."""
        strands = [rows[self.strands[place], key] for place, key in keys.items()]
        return replace(self, jobs=[self.jobs[place] for place in keys], strands=strands, mask=mask)

    def _index(self, rows: Sequence[int]) -> Int[Tensor, " rows"]:
        return on_device(tuple(rows), self.model.cfg.device)

    def taken_back(self) -> "Batch":
        """The cache without what jobs took back in this step; those of a strand took the same."""
        pairs = zip(self.strands, self.jobs, strict=True)
        taken = {strand: job.taken_back for strand, job in pairs if job.taken_back}
        if not taken:
            return self
        self.backend.take_back(self.cache, taken)
        mask = self.mask.clone()
        for strand, count in taken.items():
            mask[strand] = mask[strand].roll(count)
            mask[strand, :count] = 0
        return replace(self, mask=mask)._trimmed()

    def _trimmed(self) -> "Batch":
        """Without the leading positions that are padding in every strand."""
        padding = int(self.mask.amax(0).argmax())
        if not padding:
            return self
        self.backend.trim(self.cache, padding)
        return replace(self, mask=self.mask[:, padding:])

    def joined(self, other: "Batch") -> "Batch":
        """The jobs of both batches; the other's take idle rows if these are enough."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        mask, coming = (
            torch.nn.functional.pad(batch.mask, (width - batch.mask.shape[1], 0))
            for batch in (self, other)
        )
        size = len(mask)
        rows = sorted(set(range(size)) - set(self.strands))[: len(coming)]
        if len(rows) == len(coming):
            self.backend.join(self.cache, other.cache, self._index(rows))
            mask[rows] = coming
        else:
            self.backend.join(self.cache, other.cache)
            rows, mask = list(range(size, size + len(coming))), torch.cat([mask, coming])
        jobs = [*self.jobs, *other.jobs]
        strands = [*self.strands, *(rows[strand] for strand in other.strands)]
        return replace(self, jobs=jobs, strands=strands, mask=mask)._trimmed()


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
