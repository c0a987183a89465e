"""The decode loop: batched, left-padded, cached; a row's tokens depend on that row alone.

A finished row leaves the batch and a waiting one takes its place: its prompt is read by itself, and
its cache is joined to the others'. Rows of one batch may have different interventions; each action
is called with its own rows only. Conditions of one prompt are one row until they differ (`Batch`).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_lens.generation.batch import Batch, CurrentPass
from mi_lens.generation.drawing import accept, draw
from mi_lens.generation.jobs import Job
from mi_lens.generation.recycling import awaits_candidates, recycle_candidates, recycle_consumed
from mi_lens.models.attached_hooks import FwdHooks, attached_hooks
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import block_output, layer_of_output
from mi_lens.models.model import Model
from mi_lens.models.padding import left_pad
from mi_lens.states.segments import SEGMENT


class Decoder:
    """Decodes jobs on a model, up to `batch_size` of them together, under the user's hooks."""

    def __init__(
        self,
        model: Model,
        end_ids: frozenset[int],
        batch_size: int,
        fwd_hooks: FwdHooks = (),
    ):
        self.model, self.end_ids, self.batch_size = model, end_ids, batch_size
        self.fwd_hooks = fwd_hooks
        self.backend = backend_of(model)
        self.device = model.cfg.device
        self.watched = bool(fwd_hooks) or bool(attached_hooks(model))
        self.waiting: deque[Job] = deque()

    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Yields jobs as they finish. None of these hooks is on the model between two of them."""
        current = CurrentPass()
        ours = [(name, partial(_edit, current, name)) for name in _hook_names(jobs)]
        hooks = [*self.fwd_hooks, *ours]
        self.waiting, batch = deque(_same_prompts_together(jobs)), None
        while self.waiting or batch:
            with self.model.hooks(fwd_hooks=hooks) if hooks else nullcontext():
                batch, finished = self._until_finished(current, batch)
            yield from finished

    @torch.inference_mode()
    def _until_finished(
        self, current: CurrentPass, batch: Batch | None
    ) -> tuple[Batch | None, list[Job]]:
        """Steps until a job has ended: the batch without it, and what has ended."""
        finished: list[Job] = []
        while not finished and (self.waiting or batch):
            free = self.batch_size - (len(batch.jobs) if batch else 0)
            # Rows come by the eighth of a batch: their prompts are read together.
            if self.waiting and (batch is None or free > self.batch_size // 8):
                # 1. Waiting rows take free places; their prompts are read.
                count = min(free, len(self.waiting))
                newcomers, finished = self._read_prompts(
                    current, [self.waiting.popleft() for _ in range(count)]
                )
                batch = _joined(batch, newcomers)
            elif batch:
                # 2. If none can come, every row reads its last token.
                batch, finished = self._read_last_tokens(current, batch)
        return batch, finished

    def _read_prompts(
        self, current: CurrentPass, jobs: list[Job]
    ) -> tuple[Batch | None, list[Job]]:
        """The first step of jobs; those of one prompt share a strand unless an action edits it."""
        strand_numbers: dict[tuple[tuple[int, ...], int | None], int] = {}
        strands = []
        for place, job in enumerate(jobs):
            sequence = (*job.row.prompt_ids, *job.row.token_ids)
            job.row.reading = len(sequence)
            key = sequence, place if job.will_edit else None
            strands.append(strand_numbers.setdefault(key, len(strand_numbers)))
        tokens, mask = left_pad([sequence for sequence, _ in strand_numbers], device=self.device)
        cache = self.backend.new_cache(self.model, len(mask))
        batch = Batch(self.model, self.backend, jobs, strands, mask, cache)
        return self._step(current, batch, self._last_segment(current, batch, tokens))

    def _last_segment(
        self, current: CurrentPass, batch: Batch, tokens: Int[Tensor, "strands pos"]
    ) -> Int[Tensor, "strands last"]:
        """Reads long prompts segment by segment, but for the last one, which is given back.

        What is to be watched or changed is read at once, since hooks see a whole prompt.
        """
        if self.watched or any(job.will_edit for job in batch.jobs):
            return tokens
        first, width = 0, tokens.shape[1]
        current.start(batch, batch.silent_view)
        for end in range(SEGMENT, width, SEGMENT):
            self.backend.step(
                self.model, tokens[:, first:end], batch.mask[:, :end], batch.cache, logits_to_keep=0
            )
            first = end
        return tokens[:, first:]

    def _read_last_tokens(
        self, current: CurrentPass, batch: Batch
    ) -> tuple[Batch | None, list[Job]]:
        """A further step; jobs whose states an action will edit part from the others first."""
        for job in batch.jobs:
            job.row.reading = 1
        batch = batch.regrouped(
            {place: place if job.will_edit else None for place, job in enumerate(batch.jobs)}
        )
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], dim=1)
        return self._step(current, batch, batch.last_tokens())

    def _step(
        self, current: CurrentPass, batch: Batch, tokens: Int[Tensor, "strands new"]
    ) -> tuple[Batch | None, list[Job]]:
        """One more token for every job: the batch without what has ended, and what has ended."""
        start = perf_counter()
        # 1. Read the tokens; hooks edit the states.
        current.start(batch, batch.strand_view)
        logits = self.backend.step(self.model, tokens, batch.mask, batch.cache, logits_to_keep=1)
        logits = logits[:, -1]
        # 2. Draw a candidate for every row.
        draw(batch.job_view, batch.by_job(logits))
        # 3. Draw again where the candidate asks for a block to run again.
        batch = recycle_candidates(current, draw)
        # 4. Accept the candidates, or what actions put in their place.
        for job in batch.jobs:
            accept(job, self.end_ids)
        share = (perf_counter() - start) / len(batch.jobs)
        for job in batch.jobs:
            job.seconds += share
        # 5. Finished rows go; rows that wrote different tokens part.
        finished = [job for job in batch.jobs if job.stop_reason is not None]
        written = {
            place: (job.taken_back, job.row.token_ids[-1])
            for place, job in enumerate(batch.jobs)
            if job.stop_reason is None
        }
        batch_left = batch.regrouped(written, spare=len(self.waiting)) if written else None
        return batch_left and batch_left.taken_back(), finished


def _edit(current: CurrentPass, name: str, states: Tensor, hook: Any) -> Tensor | None:
    """The hook at a name: actions edit the states of their rows, then blocks run again."""
    view = current.view
    plan = view.acting(name, lambda action: name in action.hook_names)
    edited = view.apply(plan, lambda action, part, rows: action.edit(name, part, rows), states)
    layer = layer_of_output(name)
    if layer is not None and current.reads_tokens:
        edited = recycle_consumed(current.batch, layer, edited)
        if awaits_candidates(current.batch, layer):
            current.outputs[layer] = edited[:, -1:]
    return None if edited is states else edited


def _joined(batch: Batch | None, newcomers: Batch | None) -> Batch | None:
    if batch is None or newcomers is None:
        return batch or newcomers
    return batch.joined(newcomers)


def _same_prompts_together(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in order of their prompts' first appearance."""
    by_prompt: dict[Any, list[Job]] = {}
    for job in jobs:
        by_prompt.setdefault((job.row.prompt_ids, tuple(job.row.token_ids)), []).append(job)
    return [job for group in by_prompt.values() for job in group]


def _hook_names(jobs: Sequence[Job]) -> list[str]:
    """Where hooks are needed: the actions' names, and the outputs of blocks to run again."""
    names: dict[str, None] = {}
    for action in {id(action): action for job in jobs for action in job.actions}.values():
        names |= dict.fromkeys(action.hook_names)
        if action.recycled_layer is not None:
            names[block_output(action.recycled_layer)] = None
    return list(names)
