"""The backend for TransformerBridge: the Hugging Face model with TransformerLens's hooks in it.

The bridge has the hook names of HookedTransformer as aliases: `blocks.N.hook_resid_pre`,
`.hook_resid_mid`, `.hook_resid_post`, `.hook_attn_out`, `.hook_mlp_out`, `.attn.hook_q` and so on,
`hook_embed`, `ln_final.hook_normalized`. It also has its own names, such as `blocks.N.hook_in`.

Norms, rotary angles and softmax always compute in float32, as in Hugging Face. A bridge in float64
is therefore accurate to about 1e-6, and a HookedTransformer to 1e-13.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mi_lens.models.backends.context import require_context
from mi_lens.models.backends.silence import silenced

name = "bridge"

# Hook points of the bridge that its own forward pass never reaches.
SILENT = ("rotary_emb.hook_out", "attn.hook_hidden_states", "attn.qkv.hook_in", "attn.qkv.hook_out")


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
        _keep_scores_finite(model)
    return model.eval().requires_grad_(False)


def _keep_scores_finite(model: TransformerBridge) -> None:
    """Raise masked scores to the lowest number of float32, with a permanent hook.

    A masked score is the lowest number of float64, which becomes -inf when the softmax converts it
    to float32. All scores of a padding position are masked, so that its pattern would be NaN; and
    because 0 * NaN is NaN, so would be every later position.
    """
    for layer in range(model.cfg.n_layers):
        model.add_hook(
            f"blocks.{layer}.attn.hook_attn_scores",
            _finite_scores,
            is_permanent=True,
        )


def _finite_scores(
    scores: Float[Tensor, "batch heads new total"], hook: Any
) -> Float[Tensor, "batch heads new total"]:
    return scores.clamp(min=torch.finfo(torch.float32).min)


def hook_names(model: TransformerBridge) -> list[str]:
    """See `Backend.hook_names`."""
    return [name for name, point in model.hook_dict.items() if _fires(model, point.name or name)]


def _fires(model: TransformerBridge, name: str) -> bool:
    return model._gated_hook_reason(name) is None and not name.endswith(SILENT)


def tokens_hook(model: TransformerBridge) -> str | None:
    """See `Backend.tokens_hook`."""
    return "embed.hook_in"


def is_own_hook(module: Any, function: Callable[..., Any]) -> bool:
    """See `Backend.is_own_hook`. The bridge's and Hugging Face's are on Hugging Face's modules."""
    if isinstance(module, HookPoint):
        return function is _finite_scores
    return getattr(function, "__module__", "").startswith(("transformer_lens.", "transformers."))


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


def block(
    model: TransformerBridge,
    layer: int,
    residual: Float[Tensor, "1 new d_model"],
    cache: DynamicCache,
) -> Float[Tensor, "1 new d_model"]:
    """See `Backend.block`."""
    while len(cache.layers) < layer:  # the block finds its own layer by number
        cache.layers.append(DynamicLayer())
    past = _layers(cache)[layer].get_seq_length() if len(cache.layers) > layer else 0
    mask = torch.ones(1, past + residual.shape[1], dtype=torch.long, device=residual.device)
    with silenced(model):
        arguments = _block_arguments(model, layer, residual, mask)
        return model.blocks[layer](residual, **arguments, past_key_values=cache)


def again(
    model: TransformerBridge,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: DynamicCache,
    rows: Int[Tensor, " rows"],
    *,
    keep_kv: bool = False,
) -> Float[Tensor, "rows 1 d_model"]:
    """See `Backend.again`."""
    with silenced(model):
        return _rerun(model, layer, residual, attention_mask, cache, rows, keep_kv)


def onward(
    model: TransformerBridge,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: DynamicCache,
    rows: Int[Tensor, " rows"],
) -> Float[Tensor, "rows d_vocab"]:
    """See `Backend.onward`."""
    for index in range(layer, model.cfg.n_layers):
        residual = _rerun(model, index, residual, attention_mask, cache, rows, keep_kv=False)
    return _logits(model, residual)[:, 0]


def _rerun(
    model: TransformerBridge,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: DynamicCache,
    rows: Int[Tensor, " rows"],
    keep_kv: bool,
) -> Float[Tensor, "rows 1 d_model"]:
    """Run a block on a copy of its cache that has these rows without their last position."""
    layer_cache = _layers(cache)[layer]
    past = DynamicCache()
    for _ in range(layer):  # the block finds its own layer by number
        past.layers.append(DynamicLayer())
    past.update(layer_cache.keys[rows, :, :-1], layer_cache.values[rows, :, :-1], layer)
    output = model.blocks[layer](
        residual, **_block_arguments(model, layer, residual, attention_mask), past_key_values=past
    )
    if not keep_kv:
        updated = _layers(past)[layer]
        layer_cache.keys[rows, :, -1] = updated.keys[:, :, -1]
        layer_cache.values[rows, :, -1] = updated.values[:, :, -1]
    return output


def _block_arguments(
    model: TransformerBridge,
    layer: int,
    residual: Float[Tensor, "rows new d_model"],
    attention_mask: Int[Tensor, "rows total"],
) -> dict[str, Any]:
    """The arguments that Hugging Face's model gives this block at the last positions."""
    real = attention_mask.to(model.cfg.device).bool()
    new, total = residual.shape[1], real.shape[1]
    positions = (real.cumsum(dim=1) - 1)[:, -new:]
    visible = real[:, None] & torch.ones(new, total, dtype=torch.bool).tril(total - new).to(
        real.device
    )
    window = _window(model.original_model.config, layer)
    if window is not None:
        visible = visible.triu(total - new - window + 1)
    arguments = {"attention_mask": visible[:, None], "position_ids": positions}
    rotary = getattr(model.original_model.base_model, "rotary_emb", None)
    if rotary is not None:
        arguments["position_embeddings"] = rotary(residual, positions)
    return arguments


def _window(config: Any, layer: int) -> int | None:
    """How many positions each position of the layer sees, including itself; None for all."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[layer] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def new_cache(model: TransformerBridge, batch_size: int) -> DynamicCache:
    """See `Backend.new_cache`. Layers with a window keep all positions too."""
    return DynamicCache()


def _layers(cache: DynamicCache) -> list[Any]:
    """The layers of a cache, each with `keys` and `values`, `[batch, kv_heads, pos, d_head]`."""
    return list(cache.layers)


def cache_length(cache: DynamicCache) -> int:
    """See `Backend.cache_length`."""
    return cache.get_seq_length()


def keep_rows(cache: DynamicCache, rows: Int[Tensor, " kept"]) -> None:
    """See `Backend.keep_rows`."""
    cache.batch_select_indices(rows)


def join(cache: DynamicCache, other: DynamicCache) -> None:
    """See `Backend.join`."""
    for layer, other_layer in zip(_layers(cache), _layers(other), strict=True):
        layer.keys = _joined_rows(layer.keys, other_layer.keys)
        layer.values = _joined_rows(layer.values, other_layer.values)


def _joined_rows(
    upper: Float[Tensor, "batch heads pos d_head"], lower: Float[Tensor, "more heads other d_head"]
) -> Float[Tensor, "rows heads longer d_head"]:
    """The rows of both, with the shorter rows padded by zeros on the left."""
    length = max(upper.shape[2], lower.shape[2])
    return torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in (upper, lower)])


def crop(cache: DynamicCache, length: int) -> None:
    """See `Backend.crop`."""
    surplus = cache.get_seq_length() - length
    if surplus > 0:
        cache.crop(-surplus)


def trim(cache: DynamicCache, columns: int) -> None:
    """See `Backend.trim`."""
    for layer in _layers(cache):
        layer.keys = layer.keys[:, :, columns:]
        layer.values = layer.values[:, :, columns:]


def unembed(
    model: TransformerBridge, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """See `Backend.unembed`."""
    states = residual.to(model.cfg.device, model.cfg.dtype).reshape(1, -1, residual.shape[-1])
    return _logits(model, states).reshape(*residual.shape[:-1], -1)


def _logits(
    model: TransformerBridge, residual: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_vocab"]:
    logits = model.unembed(model.ln_final(residual))
    cap = getattr(model.cfg, "output_logits_soft_cap", None)
    if cap is not None and cap > 0:
        logits = cap * (logits / cap).tanh()
    return logits
