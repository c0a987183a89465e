"""The one check that both backends make before they run."""

from typing import Any

from jaxtyping import Int
from torch import Tensor


def require_context(model: Any, attention_mask: Int[Tensor, "batch total"]) -> None:
    """Refuse rows longer than the model's context.

    Raises:
        ValueError: A row has more tokens than `model.cfg.n_ctx`.
    """
    if attention_mask.shape[1] <= model.cfg.n_ctx:  # no need to read the mask, which may be on GPU
        return
    longest = int(attention_mask.sum(dim=1).max())
    if longest > model.cfg.n_ctx:
        raise ValueError(
            f"a row has {longest} tokens, and the model's context is {model.cfg.n_ctx}; shorten "
            "the prompt or ask for fewer new tokens"
        )
