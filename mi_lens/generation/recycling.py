"""A block of the model runs again for some jobs of a batch (`mi_lens.interventions.recycle`).

Where the token that is read asks for it, the block's output is replaced in passing. Where the
candidate asks for it, the layers above are computed anew too, and another candidate is drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.batch import Batch, CurrentPass
from mi_lens.generation.jobs import Turn, View
from mi_lens.interventions.again import Recycling, Trigger


@dataclass(frozen=True)
class Order:
    """One block that runs again, in the same way for several jobs.

    Attributes:
        layer: Which block.
        recycling: How often it runs, and what stays in the cache.
        places: The places of the jobs in the view that was asked.
    """

    layer: int
    recycling: Recycling
    places: list[int]

    def run(
        self,
        batch: Batch,
        states: Float[Tensor, "rows 1 d"],
        strands: Sequence[int],
    ) -> Float[Tensor, "rows 1 d"]:
        """The outputs of the block at the last position of strands, run again on its outputs."""
        rows, mask = on_device(tuple(strands), states.device), batch.mask[list(strands)]
        return self.recycling.run(batch.model, self.layer, states, mask, batch.cache, rows)


def recycle_consumed(
    batch: Batch, layer: int, states: Float[Tensor, "strands pos d"]
) -> Float[Tensor, "strands pos d"]:
    """The output of a block, run again in the strands whose token just read asks for it.

    Tokens of prompts and prefixes ask for nothing.
    """
    view = batch.strand_view
    if any(row.reading > 1 for row in view.rows):
        return states
    for order in orders_of(view, layer, "consumed"):
        index = on_device(tuple(order.places), states.device)
        states = states.index_copy(0, index, order.run(batch, states[index], order.places))
        for place in order.places:
            row = view.rows[place]
            passes = order.recycling.cost(layer, batch.model.cfg.n_layers, "consumed")
            row.note("recycle", layer=layer, consumed=row.consumed, passes=passes)
    return states


def awaits_candidates(batch: Batch, layer: int) -> bool:
    """Whether a candidate of this batch may ask for the block to run again."""
    return bool(recyclers(batch.job_view, layer, "candidate"))


def recycle_candidates(current: CurrentPass, draw: Callable[[View, Tensor], None]) -> Batch:
    """Runs blocks again in the rows whose candidate asks for it, and draws their candidate anew.

    Args:
        current: The pass in which the batch read tokens. Every row has its candidate from it. Its
            outputs are used up.
        draw: Gives the rows of a view their candidates from logits.

    Returns:
        The batch, in which each recycled job has a strand of its own.
    """
    batch = current.batch
    orders = [
        order
        for layer in sorted(current.outputs)
        for order in orders_of(batch.job_view, layer, "candidate")
    ]
    outputs_by_order = [
        _rows(current.outputs[order.layer], [batch.strands[place] for place in order.places])
        for order in orders
    ]
    current.outputs.clear()
    if not orders:
        return batch
    recycled = {place for order in orders for place in order.places}
    batch = batch.regrouped(
        {place: place if place in recycled else None for place in range(len(batch.jobs))}
    )
    for order, outputs in zip(orders, outputs_by_order, strict=True):
        strands = [batch.strands[place] for place in order.places]
        view = View([batch.jobs[place] for place in order.places])
        candidates = [row.candidate for row in view.rows]
        states = order.run(batch, outputs, strands)
        current.start(batch, view)
        rows = on_device(tuple(strands), states.device)
        logits = batch.backend.onward(
            batch.model, order.layer + 1, states, batch.mask[strands], batch.cache, rows
        )
        draw(view, logits)
        told = {
            "layer": order.layer,
            "passes": order.recycling.cost(order.layer, batch.model.cfg.n_layers, "candidate"),
        }
        for row, candidate in zip(view.rows, candidates, strict=True):
            row.note("recycle", **told, wanted=candidate, emitted=row.candidate)
    return batch


def orders_of(view: View, layer: int, trigger: Trigger) -> list[Order]:
    """How a block is to run again, with the places of the jobs for which it is."""
    places: dict[Recycling, list[int]] = {}
    for turn in recyclers(view, layer, trigger):
        for place, row in zip(turn.places, turn.rows, strict=True):
            recycling = turn.action.recycling(row)
            if recycling is not None:
                places.setdefault(recycling, []).append(place)
    return [Order(layer, recycling, jobs) for recycling, jobs in places.items()]


def recyclers(view: View, layer: int, trigger: Trigger) -> list[Turn]:
    """What may run a block again, at this trigger, with the jobs for which it may."""
    return view.acting(
        f"{trigger} {layer}",
        lambda action: action.recycled_layer == layer and action.recycled_when == trigger,
    )


def _rows(states: Float[Tensor, "strands 1 d"], strands: Sequence[int]) -> Tensor:
    return states[on_device(tuple(strands), states.device)]
