"""The backend for TransformerBridge: the Hugging Face model with TransformerLens's hooks in it.

The bridge has the hook names of HookedTransformer as aliases: `blocks.N.hook_resid_pre`,
`.hook_resid_mid`, `.hook_resid_post`, `.hook_attn_out`, `.hook_mlp_out`, `.attn.hook_q` and so on,
`hook_embed`, `ln_final.hook_normalized`. It also has its own names, such as `blocks.N.hook_in`.

Norms and rotary angles always compute in float32, as in Hugging Face, and so does the softmax while
a hook watches attention. A bridge in float64 is therefore accurate to about 1e-6, and a
HookedTransformer to 1e-13.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import DynamicCache

from mi_lens.models.backends.bridge_blocks import (
    again,
    layers_of,
    on_each_device,
    onward,
    some_blocks,
    unembed,
)
from mi_lens.models.backends.bridge_hooks import (
    finite_scores,
    hook_every_block,
    hook_names,
    in_dtype,
    is_own_hook,
    probe,
)
from mi_lens.models.backends.bridge_passes import forward, step
from mi_lens.models.backends.bridge_trial import find_shortcuts

__all__ = [
    "again",
    "forward",
    "hook_names",
    "is_own_hook",
    "onward",
    "some_blocks",
    "step",
    "unembed",
]

name = "bridge"


def build(hf_model: Any, tokenizer: Any) -> TransformerBridge:
    """See `Backend.build`. The bridge keeps the Hugging Face model inside."""
    architecture = type(hf_model).__name__
    config = hf_model.config
    model = build_bridge_from_module(
        hf_model, architecture, hf_config=config, model_name=config.name_or_path or architecture
    )
    if tokenizer is not None:
        model.tokenizer = tokenizer  # the builder would return it with a BOS token added
        prepends_bos = len(tokenizer("")["input_ids"]) > 0
        model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = prepends_bos
    if model.cfg.dtype == torch.float64:
        hook_every_block(model, "attn.hook_attn_scores", finite_scores)
    elif model.cfg.dtype != torch.float32:
        for rotated in ("attn.hook_rot_q", "attn.hook_rot_k"):
            hook_every_block(model, rotated, partial(in_dtype, model.cfg.dtype))
    probe(model)
    find_shortcuts(model)
    return model.eval().requires_grad_(False)


def require_buildable(hf_config: Any) -> None:
    """See `Backend.require_buildable`. The bridge runs Hugging Face's own model."""


def tokens_hook(model: TransformerBridge) -> str | None:
    """See `Backend.tokens_hook`."""
    return "embed.hook_in"


def new_cache(model: TransformerBridge, batch_size: int) -> DynamicCache:
    """See `Backend.new_cache`. Layers with a window keep all positions too."""
    return DynamicCache()


def cache_length(cache: DynamicCache) -> int:
    """See `Backend.cache_length`."""
    return cache.get_seq_length()


def keep_rows(cache: DynamicCache, rows: Int[Tensor, " kept"]) -> None:
    """See `Backend.keep_rows`."""
    rows_on = on_each_device(rows, layers_of(cache))
    for layer in layers_of(cache):
        layer.batch_select_indices(rows_on[layer.keys.device])


def copy_rows(
    cache: DynamicCache, sources: Int[Tensor, " copies"], targets: Int[Tensor, " copies"]
) -> None:
    """See `Backend.copy_rows`."""
    layers = layers_of(cache)
    sources_on, targets_on = on_each_device(sources, layers), on_each_device(targets, layers)
    for layer in layers:
        for states in (layer.keys, layer.values):
            copied = states.index_select(0, sources_on[states.device])
            states.index_copy_(0, targets_on[states.device], copied)


def join(
    cache: DynamicCache, other: DynamicCache, rows: Int[Tensor, " rows"] | None = None
) -> None:
    """See `Backend.join`."""
    for layer, other_layer in zip(layers_of(cache), layers_of(other), strict=True):
        layer.keys = _joined_rows(layer.keys, other_layer.keys, rows)
        layer.values = _joined_rows(layer.values, other_layer.values, rows)


def _joined_rows(
    own: Float[Tensor, "batch heads pos d_head"],
    new: Float[Tensor, "more heads other d_head"],
    rows: Int[Tensor, " more"] | None,
) -> Float[Tensor, "rows heads longer d_head"]:
    """The rows of both, with the shorter rows padded by zeros on the left."""
    length = max(own.shape[2], new.shape[2])
    own, new = (pad(part, (0, 0, length - part.shape[2], 0)) for part in (own, new))
    return torch.cat([own, new]) if rows is None else own.index_copy(0, rows.to(own.device), new)


def crop(cache: DynamicCache, length: int) -> None:
    """See `Backend.crop`."""
    surplus = cache.get_seq_length() - length
    if surplus > 0:
        cache.crop(-surplus)


def trim(cache: DynamicCache, columns: int) -> None:
    """See `Backend.trim`."""
    for layer in layers_of(cache):
        layer.keys = layer.keys[:, :, columns:]
        layer.values = layer.values[:, :, columns:]


def take_back(cache: DynamicCache, taken: Mapping[int, int]) -> None:
    """See `Backend.take_back`."""
    for layer in layers_of(cache):
        for states in (layer.keys, layer.values):
            for row, count in taken.items():
                states[row] = states[row].roll(count, dims=1)
