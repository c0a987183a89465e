"""The decode loop: batched, left-padded, cached; a row's tokens depend on that row alone.

A finished row leaves the batch and a waiting one takes its place: its prompt is read apart, and its
cache joined to the others'. Rows of one batch may have different interventions; each action is
called with its own rows only. Conditions of one prompt are one row until they differ (`Batch`).
What this does not cover: prompts longer than one forward pass takes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.generation.batch import Batch, Job, View
from mi_lens.interventions.protocol import Action, Recycling
from mi_lens.interventions.sampling import choose_token
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import block_output, layer_of_output
from mi_lens.models.padding import left_pad


class Decoder:
    """Decodes jobs on a model, so many at once."""

    def __init__(self, model: Any, end_ids: frozenset[int], batch_size: int):
        self.model, self.end_ids, self.batch_size = model, end_ids, batch_size
        self.backend = backend_of(model)
        self.device = model.cfg.device

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Yields jobs as they finish. No hook of ours is on the model between two of them."""
        hooks = [(name, partial(self._fire, name)) for name in _hook_names(jobs)]
        waiting, batch = deque(_same_prompts_together(jobs)), None
        while waiting or batch:
            finished: list[Job] = []
            with self.model.hooks(fwd_hooks=hooks) if hooks else nullcontext():
                while not finished and (waiting or batch):
                    free = self.batch_size - (len(batch.jobs) if batch else 0)
                    # Rows come and go by the eighth of a batch: either way the cache is copied.
                    if waiting and (batch is None or free > self.batch_size // 8):
                        taken = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                        new, finished = self._read(taken)
                        batch = self._joined(batch, new)
                    elif batch:
                        batch, finished = self._advance(batch)
            yield from finished

    def _read(self, jobs: list[Job]) -> tuple[Batch | None, list[Job]]:
        """A batch of new jobs, their prompts read and a first token accepted."""
        parts: dict[tuple[tuple[int, ...], int | None], int] = {}
        strands = []
        for index, job in enumerate(jobs):
            sequence = (*job.row.prompt_ids, *job.row.token_ids)
            job.row.reading = len(sequence)
            key = sequence, index if _will_edit(job) else None
            strands.append(parts.setdefault(key, len(parts)))
        tokens, mask = left_pad([sequence for sequence, _ in parts], device=self.device)
        cache = self.backend.new_cache(self.model, len(mask))
        return self._step(Batch(jobs, strands, mask, cache), tokens)

    def _advance(self, batch: Batch) -> tuple[Batch | None, list[Job]]:
        """Every row reads its last token and accepts another."""
        for job in batch.jobs:
            job.row.reading = 1
        acting = [i if _will_edit(job) else None for i, job in enumerate(batch.jobs)]
        batch = self._regrouped(batch, range(len(batch.jobs)), acting)
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], dim=1)
        last = [0] * len(batch.mask)
        for strand, job in zip(batch.strands, batch.jobs, strict=True):
            last[strand] = job.row.token_ids[-1]
        return self._step(batch, torch.tensor(last, device=self.device)[:, None])

    def _step(
        self, batch: Batch, tokens: Int[Tensor, "strands new"]
    ) -> tuple[Batch | None, list[Job]]:
        """Reads tokens and accepts one more in every job; the batch without what has ended."""
        start = perf_counter()
        self.batch, self.view = batch, batch.states
        logits = self.backend.step(self.model, tokens, batch.mask, batch.cache, logits_to_keep=1)
        logits = logits[:, -1]
        each = batch.strands == list(range(len(logits)))
        self._draw(batch.view, logits if each else logits[batch.strands])
        batch = self._recycle_candidates(batch)
        for job in batch.jobs:
            self._accept(job)
        share = (perf_counter() - start) / len(batch.jobs)
        for job in batch.jobs:
            job.seconds += share
        finished = [job for job in batch.jobs if job.stop_reason is not None]
        going = [i for i, job in enumerate(batch.jobs) if job.stop_reason is None]
        if not going:
            return None, finished
        chosen = [job.row.token_ids[-1] for job in batch.jobs]
        return self._regrouped(batch, going, chosen), finished

    def _draw(self, view: View, logits: Float[Tensor, "rows d_vocab"]) -> None:
        """Gives every row its candidate."""
        plan = view.acting("logits", _overrides("logits"))
        changed = view.apply(plan, lambda action, part, rows: action.logits(part, rows), logits)
        finite = changed.amax(-1).isfinite()
        if not finite.all():
            i = int((~finite).nonzero()[0])
            raise ValueError(
                f"request {view.jobs[i].index}: the logits at step {view.rows[i].step} hold "
                f"{changed[i].amax().item()} at most; check hooks, dtype, and what is suppressed"
            )
        chosen = self._choose(view.jobs, changed)
        for row, token in zip(view.rows, chosen, strict=True):
            row.candidate = row.forced[0] if row.forced else token
        touched = sorted({i for _, places in plan for i in places})
        if touched:
            jobs = [view.jobs[i] for i in touched]
            for job, token in zip(jobs, self._choose(jobs, logits[touched]), strict=True):
                job.wanted = token

    def _choose(self, jobs: Sequence[Job], logits: Float[Tensor, "rows d_vocab"]) -> list[int]:
        likeliest = logits.argmax(-1).tolist()
        for i, job in enumerate(jobs):
            sampling = job.sampling
            for action in job.actions:
                sampling = action.sampling(job.row, sampling)
            if sampling.temperature > 0:
                likeliest[i] = choose_token(logits[i], sampling, job.row.uniform("token"))
        return likeliest

    def _accept(self, job: Job) -> None:
        row = job.row
        token = row.candidate
        assert token is not None
        if row.forced:
            row.forced.popleft()
        else:
            if job.wanted not in (None, token):
                row.note("logits", wanted=job.wanted, emitted=token)
            for action in job.actions:
                token = action.replace(row, token, self.end_ids)
        job.accept(token, self.end_ids)

    # Hooks: states pass here while tokens are read, a row a strand.

    def _fire(self, name: str, states: Tensor, hook: Any) -> Tensor | None:
        view = self.view
        plan = view.acting(name, lambda action: name in action.hook_names)
        changed = view.apply(plan, lambda a, part, rows: a.edit(name, part, rows), states)
        layer = layer_of_output(name)
        if layer is not None and view is self.batch.states:
            changed = self._recycle_consumed(layer, changed)
            if any(_recycles(a, layer, "candidate") for j in self.batch.jobs for a in j.actions):
                self.batch.kept[layer] = changed[:, -1:]
        return None if changed is states else changed

    # Recycling: a block runs again (mi_lens.interventions.recycle).

    def _recycle_consumed(
        self, layer: int, states: Float[Tensor, "strands pos d"]
    ) -> Float[Tensor, "strands pos d"]:
        if any(row.reading > 1 for row in self.view.rows):
            return states
        for recycling, places in _orders(self.view, layer, "consumed").items():
            index = torch.tensor(places, device=states.device)
            again = self._again(self.batch, layer, recycling, states[index], index)
            states = states.index_copy(0, index, again)
            for i in places:
                row = self.view.rows[i]
                row.note("recycle", layer=layer, consumed=row.consumed)
        return states

    def _recycle_candidates(self, batch: Batch) -> Batch:
        orders = [
            (layer, recycling, places)
            for layer in sorted(batch.kept)
            for recycling, places in _orders(batch.view, layer, "candidate").items()
        ]
        if orders:
            acting = {i for _, _, places in orders for i in places}
            keys = [i if i in acting else None for i in range(len(batch.jobs))]
            batch = self._regrouped(batch, range(len(batch.jobs)), keys)
        for layer, recycling, places in orders:
            index = torch.tensor([batch.strands[i] for i in places], device=self.device)
            state = self._again(batch, layer, recycling, batch.kept[layer][index], index)
            view = View([batch.jobs[i] for i in places])
            wanted = [row.candidate for row in view.rows]
            self.batch, self.view = batch, view
            logits = self.backend.onward(
                self.model, layer + 1, state, batch.mask[index], batch.cache, index
            )
            self._draw(view, logits)
            for row, before in zip(view.rows, wanted, strict=True):
                row.note("recycle", layer=layer, wanted=before, emitted=row.candidate)
        batch.kept.clear()
        return batch

    def _again(
        self,
        batch: Batch,
        layer: int,
        recycling: Recycling,
        states: Float[Tensor, "some 1 d"],
        index: Int[Tensor, "some"],
    ) -> Float[Tensor, "some 1 d"]:
        for _ in range(recycling.passes):
            states = self.backend.again(
                self.model, layer, states, batch.mask[index], batch.cache, index,
                keep_kv=recycling.keep_kv,
            )  # fmt: skip
        return states

    # Rows come, part and go.

    def _regrouped(self, batch: Batch, going: Sequence[int], keys: Sequence[Any]) -> Batch:
        """The jobs that go on, those of a strand parted where their keys differ.

        A few strands without a job stay until the cache is copied anyway, and are read in vain.
        """
        parts: dict[Any, int] = {}
        strands = [parts.setdefault((batch.strands[i], keys[i]), len(parts)) for i in going]
        source = [strand for strand, _ in parts]
        jobs = [batch.jobs[i] for i in going]
        size = len(batch.mask)
        fits = batch.mask.shape[1] < self.model.cfg.n_ctx
        if len(set(source)) == len(source) and (
            len(source) == size or (fits and size - len(source) <= size // 8)
        ):
            if len(going) == len(batch.jobs):
                return batch
            strands = [batch.strands[i] for i in going]
            return replace(batch, jobs=jobs, strands=strands)
        index = torch.tensor(source, device=self.device)
        self.backend.keep_rows(batch.cache, index)
        kept = {layer: states[index] for layer, states in batch.kept.items()}
        return self._trimmed(Batch(jobs, strands, batch.mask[index], batch.cache, kept))

    def _joined(self, batch: Batch | None, new: Batch | None) -> Batch | None:
        if batch is None or new is None:
            return batch or new
        width = max(batch.mask.shape[1], new.mask.shape[1])
        masks = [
            torch.nn.functional.pad(mask, (width - mask.shape[1], 0))
            for mask in (batch.mask, new.mask)
        ]
        self.backend.join(batch.cache, new.cache)
        strands = [*batch.strands, *(len(batch.mask) + strand for strand in new.strands)]
        return Batch([*batch.jobs, *new.jobs], strands, torch.cat(masks), batch.cache)

    def _trimmed(self, batch: Batch) -> Batch:
        """Without the leading positions that are padding in every row."""
        padding = int(batch.mask.amax(0).argmax())
        if not padding:
            return batch
        self.backend.trim(batch.cache, padding)
        return replace(batch, mask=batch.mask[:, padding:])


def _same_prompts_together(jobs: Sequence[Job]) -> list[Job]:
    """The jobs in order of their prompts' first appearance."""
    together: dict[Any, list[Job]] = {}
    for job in jobs:
        together.setdefault((job.row.prompt_ids, tuple(job.row.token_ids)), []).append(job)
    return [job for some in together.values() for job in some]


def _will_edit(job: Job) -> bool:
    return any(action.will_edit(job.row) for action in job.actions)


def _overrides(method: str) -> Callable[[Action], bool]:
    return lambda action: getattr(type(action), method) is not getattr(Action, method)


def _hook_names(jobs: Sequence[Job]) -> list[str]:
    names: dict[str, None] = {}
    for action in {id(a): a for job in jobs for a in job.actions}.values():
        names |= dict.fromkeys(action.hook_names)
        if action.recycled_layer is not None:
            names[block_output(action.recycled_layer)] = None
    return list(names)


def _recycles(action: Action, layer: int, when: str) -> bool:
    return action.recycled_layer == layer and action.recycled_when == when


def _orders(view: View, layer: int, when: str) -> dict[Recycling, list[int]]:
    """What is to run again in a layer, and the places of the jobs for which it is."""
    orders: dict[Recycling, list[int]] = {}
    plan = view.acting(f"{when} {layer}", lambda action: _recycles(action, layer, when))
    for action, places in plan:
        for i in places:
            order = action.recycling(view.rows[i])
            if order is not None:
                orders.setdefault(order, []).append(i)
    return orders
