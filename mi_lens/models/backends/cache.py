"""The keys and values of the positions that a HookedTransformer has read.

TransformerLens's own cache copies everything at every step to append one position. It also stores
keys before their rotation, so that every step rotates all of them again. This cache stores rotated
keys, and writes new positions into room that it allocated in advance.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

ROOM = 64  # positions allocated in advance; a cache of over 512 positions gets an eighth of them


class LayerCache:
    """Keys and values of one layer, `[batch, kv_heads, length, d_head]` each."""

    def __init__(self) -> None:
        self.length = 0
        self._buffers: list[Tensor] = []  # keys and values, with room at the end

    @property
    def keys(self) -> Float[Tensor, "batch kv_heads length d_head"]:
        """The keys, rotated if the model rotates keys."""
        return self._buffers[0].narrow(2, 0, self.length)

    @property
    def values(self) -> Float[Tensor, "batch kv_heads length d_head"]:
        """The values, as the heads read them."""
        return self._buffers[1].narrow(2, 0, self.length)

    def append(
        self,
        keys: Float[Tensor, "batch new kv_heads d_head"],
        values: Float[Tensor, "batch new kv_heads d_head"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads length d_head"], Float[Tensor, "batch kv_heads length d_head"]
    ]:
        """Append new positions; returns all keys and all values."""
        start, self.length = self.length, self.length + keys.shape[1]
        if not self._buffers or self._buffers[0].shape[2] < self.length:
            self._make_room(keys, start)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer.narrow(2, start, new.shape[1]).copy_(new.transpose(1, 2))
        return self.keys, self.values

    def _make_room(self, like: Float[Tensor, "batch new kv_heads d_head"], filled: int) -> None:
        batch, _, heads, d_head = like.shape
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            capacity = self.length + max(ROOM, self.length // 8)
            larger = [like.new_zeros(batch, heads, capacity, d_head) for _ in range(2)]
        for new, buffer in zip(larger, self._buffers, strict=bool(self._buffers)):
            new[:, :, :filled] = buffer[:, :, :filled]
        self._buffers = larger

    def before_last(self, rows: Int[Tensor, " rows"]) -> "LayerCache":
        """A copy of these rows without their last position, but with room for it."""
        copy = LayerCache()
        copy.length = self.length - 1
        copy._buffers = [buffer[rows, :, : self.length] for buffer in self._buffers]
        return copy

    def replace_last(self, rows: Int[Tensor, " rows"], other: "LayerCache") -> None:
        """Copy the last position of these rows from another cache, which has only these rows."""
        for buffer, new in zip(self._buffers, (other.keys, other.values), strict=True):
            buffer[rows, :, self.length - 1] = new[:, :, -1]

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows, in this order."""
        self._buffers = [buffer.index_select(0, rows) for buffer in self._buffers]  # room included

    def join(self, other: "LayerCache") -> None:
        """Append the rows of another cache; the shorter rows get zeros on the left."""
        length = max(self.length, other.length)
        pairs = ((self.keys, other.keys), (self.values, other.values))
        self._buffers = [
            torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in pair])
            for pair in pairs
        ]
        self.length = length

    def crop(self, length: int) -> None:
        """Keep only the first `length` positions."""
        self.length = min(self.length, length)

    def trim(self, columns: int) -> None:
        """Drop the first `columns` positions."""
        self._buffers = [buffer[:, :, columns:] for buffer in self._buffers]
        self.length -= columns
