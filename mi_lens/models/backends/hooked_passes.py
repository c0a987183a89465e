"""Passes of a HookedTransformer: embedding, blocks, and logits at the last positions."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens import HookedTransformer
from transformer_lens.utilities.activation_functions import apply_softcap

from mi_lens.models.backends.attention import LayerStep
from mi_lens.models.backends.cache import LayerCache
from mi_lens.models.backends.positions import Positions


def run(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch new"],
    positions: Positions,
    caches: Sequence[LayerCache | None],
    logits_to_keep: int | None,
) -> Float[Tensor, "batch kept d_vocab"]:
    residual = embed(model, tokens.to(model.cfg.device), positions)
    for block, cache in zip(model.blocks, caches, strict=True):
        residual = block(residual, past_kv_cache_entry=LayerStep(positions, cache))
    return last_logits(model, residual, logits_to_keep)


def embed(
    model: HookedTransformer, tokens: Int[Tensor, "batch new"], positions: Positions
) -> Float[Tensor, "batch new d_model"]:
    if model.cfg.use_hook_tokens:
        tokens = model.hook_tokens(tokens)
    embedded = model.hook_embed(model.embed(tokens))
    if model.cfg.positional_embedding_type != "standard":
        return embedded
    at_position = functional.embedding(positions.position, model.pos_embed.W_pos)
    return embedded + model.hook_pos_embed(at_position.expand_as(embedded))


def last_logits(
    model: HookedTransformer, residual: Float[Tensor, "batch pos d_model"], keep: int | None
) -> Float[Tensor, "batch kept d_vocab"]:
    normed = model.ln_final(residual)
    if keep is not None:
        normed = normed[:, normed.shape[1] - keep :]
    return apply_softcap(model.unembed(normed), model.cfg.output_logits_soft_cap)
