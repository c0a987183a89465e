"""Short lists on a device: the same one is copied there once, not at every step."""

import functools
from typing import Any

import torch
from torch import Tensor


@functools.lru_cache(maxsize=4096)
def on_device(
    values: tuple[Any, ...], device: torch.device | str, dtype: torch.dtype = torch.int64
) -> Tensor:
    """A tensor of these values on a device, which must not be changed in place.

    Args:
        values: Numbers or truth values; tuples of them for more dimensions.
        device: Where the tensor lies.
        dtype: The tensor's dtype, which Python's values do not decide, since True == 1.
    """
    with torch.inference_mode(False):  # One made in inference mode would be of no use outside.
        return torch.tensor(values, dtype=dtype, device=device)
