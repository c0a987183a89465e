"""Token ids of several sequences as one batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


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
