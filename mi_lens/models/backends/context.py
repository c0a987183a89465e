"""Checks that a batch fits into the model's context, for both backends."""

from jaxtyping import Int
from torch import Tensor

from mi_lens.models.model import Model


def require_context(model: Model, attention_mask: Int[Tensor, "batch total"]) -> None:
    """Refuse rows longer than the model's context.

    Raises:
        ValueError: If a row has more tokens than `model.cfg.n_ctx`.
    """
    if attention_mask.shape[1] <= model.cfg.n_ctx:  # avoids reading a mask that may be on a GPU
        return
    longest = int(attention_mask.sum(dim=1).max())
    if longest > model.cfg.n_ctx:
        raise ValueError(
            f"a row has {longest} tokens, but the model's context is {model.cfg.n_ctx}; shorten "
            "the prompt or ask for fewer new tokens"
        )
