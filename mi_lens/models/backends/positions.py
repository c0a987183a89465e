"""The new positions of a pass: where each row keeps them, what they see, and their angles."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.components.abstract_attention import AbstractAttention

from mi_lens.common.on_device import on_device

Angles = tuple[Float[Tensor, "rows new 1 d_head"], Float[Tensor, "rows new 1 d_head"]]
# Single steps read a multiple of so many places: an accelerator prepares every new shape anew.
PLACES, ANYWHERE_ELSE = {"cpu": 1}, 256


def padding_of(attention_mask: Int[Tensor, "rows total"] | None) -> tuple[int, ...] | None:
    """Number of padding columns at the left of each row; None if there is no padding."""
    if attention_mask is None:
        return None
    padding = (attention_mask.shape[1] - attention_mask.sum(dim=1)).tolist()
    return tuple(padding) if any(padding) else None


class Positions:
    """The new positions of a pass, which are the same for all its layers.

    A row's positions count from its first token. With a cache they are also the places at which the
    row keeps its keys and values.

    Args:
        padding: Number of padding columns at the left of each row; None if no row has any.
        past: Number of columns before the new ones.
        new: Number of new columns.
        device: The model's device.

    Attributes:
        is_together: Whether all rows are at the same positions.
        places: Number of places in use after the pass, in the longest row.
        read: How many places of a cache the pass reads.
        needed: Number of places that a cache must have.
    """

    def __init__(
        self, padding: Sequence[int] | None, past: int, new: int, device: torch.device | str | None
    ):
        self.padding, self.past, self.new = padding, past, new
        self.device = torch.device(device or "cpu")
        self.is_together = padding is None
        self.places = past + new - min(padding or (0,))
        multiple = PLACES.get(self.device.type, ANYWHERE_ELSE) if new == 1 else 1
        self.read = -(-self.places // multiple) * multiple
        # Padding among the new columns is kept behind all places in use, where nobody looks.
        self.needed = max(self.read, self.places + (padding is not None))
        self._seen: dict[int | None, Bool[Tensor, "rows 1 new total"]] = {}
        self._biases: dict[Any, Float[Tensor, "rows 1 new keys"]] = {}
        self._angles: dict[float, Angles] = {}

    @cached_property
    def _unclamped(self) -> Int[Tensor, "rows new"]:
        columns = torch.arange(self.past, self.past + self.new, device=self.device)[None]
        if self.padding is None:
            return columns
        return columns - on_device(tuple(self.padding), self.device)[:, None]

    @cached_property
    def position(self) -> Int[Tensor, "rows new"]:
        """The new positions, 0 at padding; one row stands for all where they are together."""
        return self._unclamped if self._all_real else self._unclamped.clamp(min=0)

    @property
    def _all_real(self) -> bool:
        return self.padding is None or max(self.padding) <= self.past

    @cached_property
    def index(self) -> tuple[Any, ...]:
        """The places of the new positions in a cache's slots, `[rows, heads, places, d_head]`."""
        places = self.position
        if not self._all_real:
            places = torch.where(self._unclamped < 0, self.needed - 1, places)
        rows = on_device(tuple(range(len(places))), self.device)[:, None]
        return rows, slice(None), places

    @cached_property
    def columns(self) -> tuple[Int[Tensor, "rows 1"], Int[Tensor, "rows total"]]:
        """The rows and places of a cache at which all columns are kept; place 0 for padding."""
        places = self._key_positions(slots=False)[:, 0, 0].clamp(min=0)
        return on_device(tuple(range(len(places))), self.device)[:, None], places

    def last(self, rows: int) -> tuple[int, ...]:
        """The last new position of each row."""
        column = self.past + self.new - 1
        return tuple(column - padding for padding in self.padding or (0,) * rows)

    def sees_all(self, window: int | None) -> bool:
        """Whether every new position sees all keys up to itself, and no other key is read."""
        exact = self.padding is None and self.read == self.places
        return exact and (window is None or self.places <= window)

    def seen(self, window: int | None) -> Bool[Tensor, "rows 1 new total"]:
        """Which columns each new position sees: those up to itself and in the window.

        Padding sees nothing.

        Args:
            window: How many positions are seen, itself included; None for all.
        """
        if window not in self._seen:
            keys = self._key_positions(slots=False)
            queries = self._unclamped[:, None, :, None]
            self._seen[window] = (keys >= 0) & _in_reach(keys, queries, window)
        return self._seen[window]

    def bias(
        self, window: int | None, slots: bool, dtype: torch.dtype
    ) -> Float[Tensor, "rows 1 new keys"]:
        """What is added to the scores of keys: 0 where `seen` says that one is seen, else -inf.

        Padding sees the first position of its row, so that its output is finite. The rows are a
        multiple of 8 numbers apart, which kernels for accelerators want.

        Args:
            window: As in `seen`.
            slots: Whether the keys are a cache's slots, or stand in columns.
            dtype: The dtype of the scores.
        """
        if (window, slots) not in self._biases:
            keys, queries = self._key_positions(slots), self.position[:, None, :, None]
            seen = _in_reach(keys, queries, window)
            if not slots and self.padding is not None:
                seen = seen & (keys >= 0)
            *leading, width = seen.shape
            room = torch.empty(*leading, -(-width // 8) * 8, dtype=dtype, device=self.device)
            bias = room[..., :width].fill_(-torch.inf).masked_fill_(seen, 0)
            self._biases[window, slots] = bias
        return self._biases[window, slots]

    def _key_positions(self, slots: bool) -> Int[Tensor, "rows 1 1 keys"]:
        if slots:
            return torch.arange(self.read, device=self.device)[None, None, None]
        columns = torch.arange(self.past + self.new, device=self.device)[None, None, None]
        if self.padding is None:
            return columns
        return columns - on_device(tuple(self.padding), self.device)[:, None, None, None]

    def angles(self, attention: AbstractAttention) -> Angles:
        """Cosines and sines of the new positions; the sines have the signs that `rotate` needs."""
        base = attention._rotary_base()  # Gemma 3's layers with a window have another.
        if base not in self._angles:
            total = self.places
            if min(total, attention.cfg.n_ctx) > len(attention.rotary_cos):
                size = max(total, 2 * len(attention.rotary_cos))
                attention._extend_rotary_embeddings(min(size, attention.cfg.n_ctx))
            if self.is_together:
                index = (None, slice(self.past, self.past + self.new), None)
            else:
                index = (self.position[:, :, None],)
            sine, half = attention.rotary_sin[index], attention.rotary_sin.shape[1] // 2
            signed_sine = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
            self._angles[base] = attention.rotary_cos[index], signed_sine
        return self._angles[base]


class StandingPositions(Positions):
    """Positions of single steps whose tensors and shapes stay, so that a step can be replayed.

    Args:
        position: The place of each row's new token. It is changed in place between two steps.
        like: The positions of the first of these steps.
    """

    def __init__(self, position: Int[Tensor, "rows 1"], like: Positions):
        super().__init__(like.padding, like.past, 1, like.device)
        self.is_together = False
        self.places = self.read = like.read  # Angles are looked up for all of them.
        self.needed = like.needed
        self.__dict__["_unclamped"] = position  # In the place of what would be computed.

    @property
    def _all_real(self) -> bool:
        return True

    def renew(self, blocks: Iterable[Any]) -> Tensor:
        """Computes what all blocks need of the positions; gives some tensor of it."""
        self._biases.clear()
        self._angles.clear()
        for block in blocks:
            attention = block.attn
            if attention.cfg.positional_embedding_type == "rotary":
                self.angles(attention)
            self.bias(attention.window, True, attention.cfg.dtype)
        return next(iter(self._biases.values()))

    def sees_all(self, window: int | None) -> bool:
        """No: behind a row's last place are others, which only the bias hides."""
        return False


def _in_reach(keys: Tensor, queries: Tensor, window: int | None) -> Bool[Tensor, "..."]:
    """Which key positions come up to a query's, and are among the last `window` of these."""
    reached = keys <= queries
    return reached if window is None else reached & (keys > queries - window)
