"""The keys and values of the positions that a HookedTransformer has read.

TransformerLens's own cache copies everything at every step to append one position. It also stores
keys before their rotation, so that every step rotates all of them again. This cache stores rotated
keys, and writes new positions into room that it allocated in advance.

Callers count in columns, and pad rows on the left. Here every row is a slot that begins with its
first token, at place 0, so that no row moves when longer or shorter ones come or go.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mi_lens.models.backends.positions import Positions

ROOM = 64  # Places allocated in advance; a cache of over 512 places gets an eighth of them.


class LayerCache:
    """Keys and values of one layer, `[rows, kv_heads, places, d_head]` each."""

    def __init__(self) -> None:
        self._slots: list[Tensor] = []
        self.exchanged = 0  # How often `slots` became other tensors.

    @property
    def slots(self) -> list[Float[Tensor, "rows kv_heads places d_head"]]:
        """Keys and values, with room at the end."""
        return self._slots

    @slots.setter
    def slots(self, slots: list[Tensor]) -> None:
        self._slots = slots
        self.exchanged += 1

    def append(
        self,
        keys: Float[Tensor, "rows new kv_heads d_head"],
        values: Float[Tensor, "rows new kv_heads d_head"],
        positions: Positions,
    ) -> list[Float[Tensor, "rows kv_heads places d_head"]]:
        """Writes new positions; returns the keys and values of all places that the pass reads."""
        if not self.slots:
            self._make_room(keys.transpose(1, 2), positions.needed)
        self.reserve(positions)
        for slots, new in zip(self.slots, (keys, values), strict=True):
            if positions.is_together:
                slots.narrow(2, positions.past, positions.new).copy_(new.transpose(1, 2))
            else:
                slots[positions.index] = new
        return [slots.narrow(2, 0, positions.read) for slots in self.slots]

    def in_columns(
        self, positions: Positions
    ) -> list[Float[Tensor, "rows kv_heads columns d_head"]]:
        """The keys and values in columns, behind the padding, where those of another row stand."""
        if positions.is_together:
            return [slots.narrow(2, 0, positions.places) for slots in self.slots]
        rows, places = positions.columns
        return [slots[rows, :, places].transpose(1, 2) for slots in self.slots]

    def reserve(self, positions: Positions) -> None:
        """Makes room for the places that a pass needs."""
        if self.slots[0].shape[2] < positions.needed:
            self._make_room(self.slots[0], positions.needed)

    def _make_room(self, like: Float[Tensor, "rows kv_heads places d_head"], needed: int) -> None:
        rows, heads, _, d_head = like.shape
        capacity = -(-(needed + max(ROOM, needed // 8)) // ROOM) * ROOM
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            larger = [like.new_zeros(rows, heads, capacity, d_head) for _ in range(2)]
        for new, slots in zip(larger, self.slots, strict=bool(self.slots)):
            new[:, :, : slots.shape[2]] = slots
        self.slots = larger

    def copy_of(self, rows: Int[Tensor, " rows"]) -> "LayerCache":
        """A cache with a copy of these rows."""
        copy = LayerCache()
        copy.slots = [slots[rows] for slots in self.slots]
        return copy

    def replace(
        self, rows: Int[Tensor, " rows"], places: Int[Tensor, " rows"], other: "LayerCache"
    ) -> None:
        """Takes one place of each of these rows from another cache, which has only these rows."""
        of_other = torch.arange(len(rows), device=rows.device)
        for slots, new in zip(self.slots, other.slots, strict=True):
            slots[rows, :, places] = new[of_other, :, places]

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows, in this order."""
        self.slots = [slots.index_select(0, rows) for slots in self.slots]

    def copy_rows(self, sources: Int[Tensor, " copies"], targets: Int[Tensor, " copies"]) -> None:
        """Makes some rows copies of others."""
        for slots in self.slots:
            slots.index_copy_(0, targets, slots.index_select(0, sources))

    def join(self, other: "LayerCache", rows: Int[Tensor, " rows"] | None) -> None:
        """Takes the rows of another cache, in the place of some of its own or behind them."""
        capacity = max(cache.slots[0].shape[2] for cache in (self, other))
        pairs = [
            [_lengthened(part, capacity) for part in pair]
            for pair in zip(self.slots, other.slots, strict=True)
        ]
        if rows is None:
            self.slots = [torch.cat(pair) for pair in pairs]
        else:
            if pairs[0][0] is not self.slots[0]:  # They were too short.
                self.slots = [own for own, _ in pairs]
            for own, new in pairs:
                own.index_copy_(0, rows, new)


def _lengthened(slots: Tensor, capacity: int) -> Tensor:
    missing = capacity - slots.shape[2]
    return pad(slots, (0, 0, 0, missing)) if missing else slots


class Cache:
    """The caches of all layers, and the number of columns that their rows have.

    Attributes:
        layers: One for each block.
        columns: Number of positions so far, padding included.
        recorded: What is replayed for a single step on these rows, if anything is.
    """

    def __init__(self, n_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(n_layers)]
        self.columns = 0
        self.recorded: Any = None

    @property
    def exchanged(self) -> int:
        """A number that changes when a layer's slots become other tensors."""
        return sum(layer.exchanged for layer in self.layers)

    def __getitem__(self, layer: int) -> LayerCache:
        return self.layers[layer]

    def _rows_change(self) -> None:
        if self.recorded is not None:
            self.recorded.forget_places()

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows, in this order."""
        self._rows_change()
        for layer in self.layers:
            layer.keep_rows(rows)

    def copy_rows(self, sources: Int[Tensor, " copies"], targets: Int[Tensor, " copies"]) -> None:
        """Makes some rows copies of others."""
        self._rows_change()
        for layer in self.layers:
            layer.copy_rows(sources, targets)

    def take_back(self) -> None:
        """The last positions of some rows count no more; nothing sees what is behind a row."""
        self._rows_change()

    def join(self, other: "Cache", rows: Int[Tensor, " rows"] | None) -> None:
        """Takes the rows of another cache, in the place of some of its own or behind them."""
        self._rows_change()
        self.columns = max(self.columns, other.columns)
        for layer, other_layer in zip(self.layers, other.layers, strict=True):
            layer.join(other_layer, rows)
