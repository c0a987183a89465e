"""Passes of a bridge over whole sequences, and over new positions after those in a cache."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from mi_lens.common.on_device import on_device
from mi_lens.models.backends.bridge_shortcuts import Shortcuts, free_of, taken
from mi_lens.models.backends.context import require_context
from mi_lens.models.backends.kernels import no_cudnn_attention


def forward(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"],
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.forward`."""
    return _run(model, tokens, attention_mask, logits_to_keep, None)


def step(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch new"],
    attention_mask: Int[Tensor, "batch total"],
    cache: DynamicCache,
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.step`."""
    return _run(model, tokens, attention_mask, logits_to_keep, cache)


def _run(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch new"],
    attention_mask: Int[Tensor, "batch total"],
    logits_to_keep: int | None,
    cache: DynamicCache | None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """One pass. With a mask on the host it never waits for the device."""
    require_context(model, attention_mask)
    batch, total = attention_mask.shape
    new = tokens.shape[1]
    keep = new if logits_to_keep is None else logits_to_keep
    tokens = tokens.to(model.cfg.device)
    starts = (total - attention_mask.sum(dim=1)).tolist()
    padded = any(starts)
    columns = torch.arange(total, device=tokens.device)
    positions, mask = columns[-new:].expand(batch, -1), None
    if padded:
        first = on_device(tuple(starts), tokens.device)[:, None]
        positions, mask = positions - first, (columns >= first).long()
        if max(starts) > total - new:
            positions = positions.clamp(min=0)
    elif cache is None:
        mask = torch.ones_like(tokens)  # Without any, Hugging Face looks for packed sequences.
    shortcuts = free_of(getattr(model, "_shortcuts", Shortcuts()))
    with taken(shortcuts, padded=padded), no_cudnn_attention():
        return model(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            logits_to_keep=slice(new - keep, new),  # Needs no tensor on whichever device.
            past_key_values=cache,
            use_cache=cache is not None,
        )
