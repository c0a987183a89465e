"""Blocks that run again at a position: how often, how far, and what stays in the cache.

One further run of blocks a to b takes the state h behind block b as the input of block a:

    h <- h + damping (TF(h) - h)        where TF is block a, then a + 1, and so on to b

With damping 1 the output replaces the state (paper 1). Below 1 it is a damped fixed-point
iteration: h moves a part of the way to TF(h) in each run.

Every run writes keys and values at the position anew, in each of the blocks, made of what the
block read in that run. So those that stay are of the *input* of the last run, which a damping
reaches only through the runs before.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model

Trigger = Literal["candidate", "consumed"]


@dataclass(frozen=True)
class Recycling:
    """An instruction to run blocks again for a row (`mi_lens.interventions.recycle`).

    Attributes:
        passes: Number of further runs.
        keep_kv: Whether later tokens attend to the keys and values of the first run.
        damping: How far each run moves the state to the output, above 0, at most 1.
        count: How many consecutive blocks run again as one.
    """

    passes: int
    keep_kv: bool
    damping: float = 1.0
    count: int = 1

    def blocks(self, layer: int) -> range:
        """The blocks that run again, of which `layer` is the last."""
        return blocks_until(layer, self.count)

    def cost(self, layer: int, n_layers: int, trigger: Trigger) -> float:
        """What it costs, in forward passes of one token through all blocks of the model.

        With "candidate", the blocks above `layer` run again too.
        """
        above = n_layers - layer - 1 if trigger == "candidate" else 0
        return round((self.passes * self.count + above) / n_layers, 4)

    def moved(self, states: Float[Tensor, "*rows d"], again: Float[Tensor, "*rows d"]) -> Tensor:
        """The states after a run whose outputs are `again`."""
        return again if self.damping == 1 else states + self.damping * (again - states)

    def run(
        self,
        model: Model,
        layer: int,
        states: Float[Tensor, "rows 1 d"],
        mask: Int[Tensor, "rows total"],
        cache: Any,
        rows: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows 1 d"]:
        """Outputs of blocks at the last position in their caches, run again on these outputs.

        Args:
            model: A HookedTransformer or TransformerBridge.
            layer: Number of the last of the blocks.
            states: Its outputs at that position.
            mask: The mask of these rows, over the positions in the caches of the blocks.
            cache: The backend's cache.
            rows: Indices of the rows in the cache.
        """
        backend = backend_of(model)
        for _ in range(self.passes):
            again = states
            for block in self.blocks(layer):
                again = backend.again(model, block, again, mask, cache, rows, keep_kv=self.keep_kv)
            states = self.moved(states, again)
        return states

    def run_last(
        self, model: Model, layer: int, states: Float[Tensor, "1 pos d"], read: int, cache: Any
    ) -> Float[Tensor, "1 pos d"]:
        """Outputs of blocks for a row alone, of which the last is run again.

        Args:
            model: See `run`.
            layer: See `run`.
            states: The last block's outputs at the last positions in its cache.
            read: How many positions are in the block's cache.
            cache: See `run`.
        """
        row = torch.zeros(1, dtype=torch.long, device=states.device)
        mask = torch.ones(1, read, dtype=torch.long)
        last = self.run(model, layer, states[:, -1:], mask, cache, row)
        return torch.cat([states[:, :-1], last], dim=1)


def blocks_until(layer: int | None, count: int) -> range:
    """So many consecutive blocks, of which `layer` is the last; none if it is None."""
    return range(0) if layer is None else range(layer + 1 - count, layer + 1)
