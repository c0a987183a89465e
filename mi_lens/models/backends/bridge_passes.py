"""Passes of a bridge over whole sequences, and over new positions after those in a cache."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from mi_lens.models.backends.context import require_context


def forward(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"],
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.forward`."""
    return _run(model, tokens, attention_mask, logits_to_keep, use_cache=False)


def step(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch new"],
    attention_mask: Int[Tensor, "batch total"],
    cache: DynamicCache,
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.step`."""
    return _run(
        model, tokens, attention_mask, logits_to_keep, past_key_values=cache, use_cache=True
    )


def _run(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch new"],
    attention_mask: Int[Tensor, "batch total"],
    logits_to_keep: int | None,
    **cache: Any,
) -> Float[Tensor, "batch kept d_vocab"]:
    require_context(model, attention_mask)
    attention_mask = attention_mask.to(model.cfg.device)
    new = tokens.shape[1]
    keep = new if logits_to_keep is None else logits_to_keep
    positions = attention_mask.new_tensor(range(new - keep, new))
    return model(
        tokens.to(model.cfg.device),
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new:],
        logits_to_keep=positions,
        **cache,
    )
