"""Numbers that are not finite: float16 ends at 65504, and residual streams go beyond it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def advice(dtype: torch.dtype) -> str:
    """The end of an error message about a number that a model made infinite or NaN."""
    if dtype == torch.float16:
        return (
            "float16 holds values up to 65504, and residual streams exceed that: load the model "
            "with dtype='bfloat16' or 'float32'"
        )
    return "check the model's weights, the hooks on it and what is suppressed"


def require_finite(states: Float[Tensor, "rows d"], which: Callable[[int], str]) -> None:
    """Raises a ValueError if a state holds infinity or NaN; `which` names the state of a row."""
    finite = states.isfinite()
    if not finite.all():
        row = int((~finite.all(1)).nonzero()[0])
        value = states[row][~finite[row]][0].item()
        dtype = str(states.dtype).removeprefix("torch.")
        raise ValueError(f"{which(row)} holds {value}, in {dtype}; {advice(states.dtype)}")
