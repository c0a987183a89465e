"""The decode loop: batched, left-padded, cached; a row's tokens depend on that row alone.

A finished row leaves the batch and a waiting one takes its place: its prompt is read apart, and its
cache joined to the others'. Rows of one batch may have different interventions; each action is
called with its own rows only. What this does not cover: prompts longer than one forward pass takes,
and prefixes that several rows share (each row reads its own prompt).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.backends import backend_of
from mi_lens.interventions.protocol import Action, Recycling, Row
from mi_lens.sampling import Sampling, choose_token
from mi_lens.traces import StopReason


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
    """Jobs that share a cache."""

    view: View
    mask: Int[Tensor, "rows pos"]
    cache: Any
    kept: dict[int, Float[Tensor, "rows 1 d"]] = field(default_factory=dict)


def _overrides(method: str) -> Callable[[Action], bool]:
    return lambda action: getattr(type(action), method) is not getattr(Action, method)


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
        waiting, batch = deque(jobs), None
        while waiting or batch:
            finished: list[Job] = []
            with self.model.hooks(fwd_hooks=hooks) if hooks else nullcontext():
                while not finished and (waiting or batch):
                    free = self.batch_size - (len(batch.view.jobs) if batch else 0)
                    if free and waiting:
                        new = self._read(
                            [waiting.popleft() for _ in range(min(free, len(waiting)))]
                        )
                        new, finished = self._without_finished(new)
                        batch = self._joined(batch, new)
                    elif batch:
                        self._advance(batch)
                        batch, finished = self._without_finished(batch)
            yield from finished

    def _read(self, jobs: list[Job]) -> Batch:
        """A batch of new jobs, their prompts read and a first token accepted."""
        sequences = []
        for job in jobs:
            sequences.append([*job.row.prompt_ids, *job.row.token_ids])
            job.row.reading = len(sequences[-1])
        tokens, mask = left_pad(sequences, device=self.device)
        batch = Batch(View(jobs), mask, self.backend.new_cache(self.model, len(jobs)))
        self._step(batch, tokens)
        return batch

    def _advance(self, batch: Batch) -> None:
        """Every row reads its last token and accepts another."""
        for row in batch.view.rows:
            row.reading = 1
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.mask), 1)], dim=1)
        last = [[row.token_ids[-1]] for row in batch.view.rows]
        self._step(batch, torch.tensor(last, device=self.device))

    def _step(self, batch: Batch, tokens: Int[Tensor, "rows new"]) -> None:
        start = perf_counter()
        self.batch, self.view = batch, batch.view
        logits = self.backend.step(self.model, tokens, batch.mask, batch.cache, logits_to_keep=1)
        self._draw(batch.view, logits[:, -1])
        self._recycle_candidates(batch)
        for job in batch.view.jobs:
            self._accept(job)
        share = (perf_counter() - start) / len(batch.view.jobs)
        for job in batch.view.jobs:
            job.seconds += share

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
        chosen = self._choose(view, changed)
        for row, token in zip(view.rows, chosen, strict=True):
            row.candidate = row.forced[0] if row.forced else token
        touched = {i for _, places in plan for i in places}
        if touched:
            for i, token in enumerate(self._choose(view, logits)):
                view.jobs[i].wanted = token if i in touched else None

    def _choose(self, view: View, logits: Float[Tensor, "rows d_vocab"]) -> list[int]:
        likeliest = logits.argmax(-1).tolist()
        for i, job in enumerate(view.jobs):
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

    # Hooks: states pass here while tokens are read.

    def _fire(self, name: str, states: Tensor, hook: Any) -> Tensor | None:
        view = self.view
        plan = view.acting(name, lambda action: name in action.hook_names)
        changed = view.apply(plan, lambda a, part, rows: a.edit(name, part, rows), states)
        layer = _layer_of_output(name)
        if layer is not None:
            changed = self._recycle_consumed(layer, changed)
            if any(_recycles(a, layer, "candidate") for job in view.jobs for a in job.actions):
                self.batch.kept[layer] = changed[:, -1:]
        return None if changed is states else changed

    # Recycling: a block runs again (mi_lens.interventions.recycle).

    def _recycle_consumed(
        self, layer: int, states: Float[Tensor, "rows pos d"]
    ) -> Float[Tensor, "rows pos d"]:
        if self.view is not self.batch.view or any(r.reading > 1 for r in self.view.rows):
            return states
        for recycling, places in _orders(self.view, layer, "consumed").items():
            index = torch.tensor(places, device=states.device)
            again = self._again(layer, recycling, states[index], index)
            states = states.index_copy(0, index, again)
            for i in places:
                row = self.view.rows[i]
                row.note("recycle", layer=layer, consumed=row.consumed)
        return states

    def _recycle_candidates(self, batch: Batch) -> None:
        for layer in sorted(batch.kept):
            for recycling, places in _orders(batch.view, layer, "candidate").items():
                index = torch.tensor(places, device=self.device)
                state = self._again(layer, recycling, batch.kept[layer][index], index)
                view = View([batch.view.jobs[i] for i in places])
                wanted = [row.candidate for row in view.rows]
                self.view = view
                logits = self.backend.onward(
                    self.model, layer + 1, state, batch.mask[index], batch.cache, index
                )
                self._draw(view, logits)
                for row, before in zip(view.rows, wanted, strict=True):
                    row.note("recycle", layer=layer, wanted=before, emitted=row.candidate)
        batch.kept.clear()

    def _again(
        self,
        layer: int,
        recycling: Recycling,
        states: Float[Tensor, "some 1 d"],
        index: Int[Tensor, "some"],
    ) -> Float[Tensor, "some 1 d"]:
        for _ in range(recycling.passes):
            states = self.backend.again(
                self.model, layer, states, self.batch.mask[index], self.batch.cache, index,
                keep_kv=recycling.keep_kv,
            )  # fmt: skip
        return states

    # Rows come and go.

    def _without_finished(self, batch: Batch) -> tuple[Batch | None, list[Job]]:
        finished = [job for job in batch.view.jobs if job.stop_reason is not None]
        if not finished:
            return batch, []
        going = [i for i, job in enumerate(batch.view.jobs) if job.stop_reason is None]
        if not going:
            return None, finished
        index = torch.tensor(going, device=self.device)
        self.backend.keep_rows(batch.cache, index)
        view = View([batch.view.jobs[i] for i in going])
        return self._trimmed(Batch(view, batch.mask[index], batch.cache)), finished

    def _joined(self, batch: Batch | None, new: Batch | None) -> Batch | None:
        if batch is None or new is None:
            return batch or new
        width = max(batch.mask.shape[1], new.mask.shape[1])
        masks = [
            torch.nn.functional.pad(mask, (width - mask.shape[1], 0))
            for mask in (batch.mask, new.mask)
        ]
        self.backend.join(batch.cache, new.cache)
        return Batch(View([*batch.view.jobs, *new.view.jobs]), torch.cat(masks), batch.cache)

    def _trimmed(self, batch: Batch) -> Batch:
        """Without the leading positions that are padding in every row."""
        padding = int(batch.mask.amax(0).argmax())
        if padding:
            self.backend.trim(batch.cache, padding)
            batch.mask = batch.mask[:, padding:]
        return batch


def left_pad(
    sequences: Sequence[Sequence[int]], device=None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Token ids padded on the left, and the mask that is 1 at real tokens.

    The pad token is 0, whatever the tokenizer's: masked positions are never read.
    """
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, ids in enumerate(sequences):
        tokens[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    return tokens.to(device), mask.to(device)


def _hook_names(jobs: Sequence[Job]) -> list[str]:
    names: dict[str, None] = {}
    for action in {id(a): a for job in jobs for a in job.actions}.values():
        names |= dict.fromkeys(action.hook_names)
        if action.recycled_layer is not None:
            names[f"blocks.{action.recycled_layer}.hook_resid_post"] = None
    return list(names)


def _layer_of_output(name: str) -> int | None:
    if name.startswith("blocks.") and name.endswith(".hook_resid_post"):
        return int(name.split(".")[1])
    return None


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
