"""Keys and values of the positions that a HookedTransformer has been through.

TransformerLens's own cache copies everything at every step to append one position, and holds the
keys as they are before their rotation, so that all of them are rotated at every step too. Here the
keys are held rotated, and positions are written into room made in advance.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

ROOM = 64  # positions made room for at a time, and an eighth of those there are


class LayerCache:
    """Keys and values of one layer, `[batch, kv_heads, length, d_head]` each."""

    def __init__(self) -> None:
        self.length = 0
        self._held: list[Tensor] = []  # keys and values, with room at the end

    @property
    def keys(self) -> Float[Tensor, "batch kv_heads length d_head"]:
        """Rotated, where the model rotates keys."""
        return self._held[0].narrow(2, 0, self.length)

    @property
    def values(self) -> Float[Tensor, "batch kv_heads length d_head"]:
        """As the heads read them."""
        return self._held[1].narrow(2, 0, self.length)

    def append(
        self,
        keys: Float[Tensor, "batch new kv_heads d_head"],
        values: Float[Tensor, "batch new kv_heads d_head"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads length d_head"], Float[Tensor, "batch kv_heads length d_head"]
    ]:
        """Take new positions; returns all keys and all values."""
        start, self.length = self.length, self.length + keys.shape[1]
        if not self._held or self._held[0].shape[2] < self.length:
            self._make_room(keys, start)
        for held, new in zip(self._held, (keys, values), strict=True):
            held.narrow(2, start, new.shape[1]).copy_(new.transpose(1, 2))
        return self.keys, self.values

    def _make_room(self, like: Float[Tensor, "batch new kv_heads d_head"], filled: int) -> None:
        batch, _, heads, d_head = like.shape
        # An ordinary tensor may be written to in inference mode and out of it, the other kind not.
        with torch.inference_mode(False):
            room = self.length + max(ROOM, self.length // 8)
            roomy = [like.new_zeros(batch, heads, room, d_head) for _ in range(2)]
        for new, held in zip(roomy, self._held, strict=bool(self._held)):
            new[:, :, :filled] = held[:, :, :filled]
        self._held = roomy

    def before_last(self, rows: Int[Tensor, " rows"]) -> "LayerCache":
        """A copy of these rows without their last position, and with room for it."""
        copy = LayerCache()
        copy.length = self.length - 1
        copy._held = [held[rows, :, : self.length] for held in self._held]
        return copy

    def replace_last(self, rows: Int[Tensor, " rows"], other: "LayerCache") -> None:
        """Take the last position of these rows from another cache, which has no other rows."""
        for held, new in zip(self._held, (other.keys, other.values), strict=True):
            held[rows, :, self.length - 1] = new[:, :, -1]

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order."""
        self._held = [held.index_select(0, rows) for held in self._held]  # with their room

    def join(self, other: "LayerCache") -> None:
        """Append rows; the shorter ones get zeros on the left."""
        length = max(self.length, other.length)
        pairs = ((self.keys, other.keys), (self.values, other.values))
        self._held = [
            torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in pair])
            for pair in pairs
        ]
        self.length = length

    def crop(self, length: int) -> None:
        """Keep the first positions."""
        self.length = min(self.length, length)

    def trim(self, columns: int) -> None:
        """Drop the first positions."""
        self._held = [held[:, :, columns:] for held in self._held]
        self.length -= columns
