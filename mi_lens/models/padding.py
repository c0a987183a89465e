"""Puts the token ids of several sequences into one batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def left_pad(
    sequences: Sequence[Sequence[int]], device=None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Token ids padded on the left, and a mask that is 1 at real tokens and 0 at padding.

    The pad token is always 0, not the tokenizer's: nothing reads padded positions.

    Args:
        sequences: The token ids of each row.
        device: Where the token ids lie. The mask is on the CPU, where a pass sees without waiting
            for the device whether there is padding.
    """
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, ids in enumerate(sequences):
        tokens[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    return tokens.to(device), mask
