"""The keys and values of the positions that a HookedTransformer has read.

TransformerLens's own cache copies everything at every step to append one position. It also stores
keys before their rotation, so that every step rotates all of them again. This cache stores rotated
keys, and writes new positions into room that it allocated in advance.

Callers count in columns, and pad rows on the left. Here every row is a slot that begins with its
first token, at place 0, so that no row moves when longer or shorter ones come or go.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mi_lens.models.backends.positions import Positions

ROOM = 64  # Places allocated in advance; a cache of over 512 places gets an eighth of them.


class LayerCache:
    """Keys and values of one layer, `[rows, kv_heads, places, d_head]` each."""

    def __init__(self) -> None:
        self.slots: list[Tensor] = []  # Keys and values, with room at the end.

    def append(
        self,
        keys: Float[Tensor, "rows new kv_heads d_head"],
        values: Float[Tensor, "rows new kv_heads d_head"],
        positions: Positions,
    ) -> list[Float[Tensor, "rows kv_heads places d_head"]]:
        """Writes new positions; returns the keys and values of all places that the pass reads."""
        if not self.slots or self.slots[0].shape[2] < positions.needed:
            self._make_room(keys, positions.needed)
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

    def _make_room(self, like: Float[Tensor, "rows new kv_heads d_head"], needed: int) -> None:
        rows, _, heads, d_head = like.shape
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
            [pad(part, (0, 0, 0, capacity - part.shape[2])) for part in pair]
            for pair in zip(self.slots, other.slots, strict=True)
        ]
        if rows is None:
            self.slots = [torch.cat(pair) for pair in pairs]
        else:
            self.slots = [own.index_copy_(0, rows, new) for own, new in pairs]


class Cache:
    """The caches of all layers, and the number of columns that their rows have.

    Attributes:
        layers: One for each block.
        columns: Number of positions so far, padding included.
    """

    def __init__(self, n_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(n_layers)]
        self.columns = 0

    def __getitem__(self, layer: int) -> LayerCache:
        return self.layers[layer]

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keeps only these rows, in this order."""
        for layer in self.layers:
            layer.keep_rows(rows)

    def copy_rows(self, sources: Int[Tensor, " copies"], targets: Int[Tensor, " copies"]) -> None:
        """Makes some rows copies of others."""
        for layer in self.layers:
            layer.copy_rows(sources, targets)

    def join(self, other: "Cache", rows: Int[Tensor, " rows"] | None) -> None:
        """Takes the rows of another cache, in the place of some of its own or behind them."""
        self.columns = max(self.columns, other.columns)
        for layer, other_layer in zip(self.layers, other.layers, strict=True):
            layer.join(other_layer, rows)
