"""Numbers as float64 arrays on the CPU, whatever holds them."""

from typing import Any

import numpy as np


def as_float64(values: Any) -> np.ndarray:
    """Numbers of a tensor, an array or a sequence.

    A tensor may be on any device, have any dtype (bfloat16 too), and carry a gradient.

    Raises:
        ValueError: If a value is not a number.
    """
    if hasattr(values, "detach"):  # a tensor; this module does not import torch, which takes long
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected numbers: {error}") from None
