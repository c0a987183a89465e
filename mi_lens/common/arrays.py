"""Numbers as float64 arrays on the CPU, whatever holds them."""

from typing import Any

import numpy as np


def as_float64(values: Any) -> np.ndarray:
    """Numbers of a tensor, an array or a sequence of numbers or tensors.

    A tensor may be on any device, have any dtype (bfloat16 too), and carry a gradient.

    Raises:
        ValueError: If a value is not a number.
    """
    if isinstance(values, list | tuple):
        values = [_on_host(value) for value in values]
    values = _on_host(values)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected numbers: {error}") from None


def _on_host(value: Any) -> Any:
    if hasattr(value, "detach"):  # a tensor; this module does not import torch, which takes long
        return value.detach().cpu().double().numpy()
    return value
