"""Small index lists and masks on a device: the same one is copied there once, not at every step."""

import functools
from typing import Any

import torch
from torch import Tensor


@functools.lru_cache(maxsize=4096)
def on_device(values: tuple[Any, ...], device: torch.device | str) -> Tensor:
    """A tensor of whole numbers or truth values on a device, which must not be changed in place.

    Args:
        values: The numbers; tuples of numbers for more dimensions.
        device: Where the tensor lies.
    """
    with torch.inference_mode(False):  # One made in inference mode would be of no use outside.
        return torch.tensor(values, device=device)
