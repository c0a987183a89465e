"""Tensors in float64: on their own device, or on the CPU where that device has no float64.

Apple's MPS has none. What needs float64 (the MI, differences of entropies, sums over many steps) is
then computed on the CPU: slower, and with the same result.
"""

import functools
import re
import warnings

import torch


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on its own device where that device has float64, else on the CPU."""
    return tensor.to(float64_device(tensor.device)).double()


@functools.cache
def float64_device(device: torch.device) -> torch.device:
    """Where what lies on a device is computed in float64: there, or on the CPU.

    Each device is asked once. One without float64 is told in a warning.
    """
    try:
        torch.zeros(1, dtype=torch.float64, device=device).add(1)
    except (TypeError, RuntimeError) as error:
        if not re.search("float64|fp64|double", str(error), re.IGNORECASE):
            raise
        warnings.warn(
            f"device {str(device)!r} has no float64: what needs it is computed on the CPU",
            stacklevel=3,
        )
        return torch.device("cpu")
    return device
