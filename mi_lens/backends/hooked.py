"""HookedTransformer, built from any Hugging Face checkpoint of a supported architecture.

TransformerLens 3.9 finds a model's shape by its *name*: it knows no R1 distillation, takes a
folder called "my-llama-tests" for a Llama, has Gemma's shapes by heart, and cuts Mistral and Qwen3
at 2,048 positions. Here the shape is read from the checkpoint's own config, and only the
conversion of the weights is TransformerLens's.

The weights stay as trained: nothing is folded into norms and nothing is centred, since both change
the residual stream that is to be measured.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.pretrained.weight_conversions.gemma import convert_gemma_weights
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformer_lens.pretrained.weight_conversions.mistral import convert_mistral_weights
from transformer_lens.pretrained.weight_conversions.qwen2 import convert_qwen2_weights
from transformer_lens.pretrained.weight_conversions.qwen3 import convert_qwen3_weights
from transformer_lens.utilities.activation_functions import apply_softcap

from mi_lens.backends.context import require_context
from mi_lens.backends.grouped_attention import GroupedAttention
from mi_lens.backends.silence import silenced

name = "hooked"

CONVERTERS = {
    "GPT2LMHeadModel": convert_gpt2_weights,
    "Gemma2ForCausalLM": convert_gemma_weights,
    "LlamaForCausalLM": convert_llama_weights,
    "MistralForCausalLM": convert_mistral_weights,
    "Qwen2ForCausalLM": convert_qwen2_weights,
    "Qwen3ForCausalLM": convert_qwen3_weights,
}


def build(hf_model: Any, tokenizer: Any) -> HookedTransformer:
    """See `Backend.build`. The Hugging Face weights are taken over, not copied.

    TransformerLens's matrices become transposed views of them, which is also the layout in which
    its forward pass needs no copy of a matrix. Tied embeddings stay tied: `W_E` and `W_U` then
    share memory.
    """
    architecture = type(hf_model).__name__
    cfg = convert_config(hf_model.config, architecture, hf_model.dtype, hf_model.device)
    with warnings.catch_warnings():
        # Deprecated in favour of the bridge, which is the other backend.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(cfg, move_to_device=False)
    weights = CONVERTERS[architecture](hf_model, cfg)
    if architecture == "Gemma2ForCausalLM":
        weights |= _gemma_norms(hf_model)
    _take_weights(model, {key: value.detach().to(cfg.dtype) for key, value in weights.items()})
    for block in model.blocks:
        if isinstance(block.attn, GroupedQueryAttention):
            block.attn.__class__ = GroupedAttention
    model.to(hf_model.device, print_details=False)
    if tokenizer is not None:
        # set_tokenizer would load it a second time, with a BOS token that its maker did not want.
        model.tokenizer = tokenizer
        cfg.tokenizer_prepends_bos = cfg.default_prepend_bos = len(tokenizer("")["input_ids"]) > 0
    return model.eval().requires_grad_(False)


def _gemma_norms(hf_model: Any) -> dict[str, Tensor]:
    """Gemma's norms multiply by 1 + w; the converter adds the 1 in float32, whatever w is in."""
    ours = {
        "input_layernorm": "ln1",
        "post_attention_layernorm": "ln1_post",
        "pre_feedforward_layernorm": "ln2",
        "post_feedforward_layernorm": "ln2_post",
    }
    norms = {"ln_final.w": 1 + hf_model.model.norm.weight}
    for index, layer in enumerate(hf_model.model.layers):
        for theirs, mine in ours.items():
            norms[f"blocks.{index}.{mine}.w"] = 1 + getattr(layer, theirs).weight
    return norms


def _take_weights(model: HookedTransformer, weights: dict[str, Tensor]) -> None:
    parameters = {key for key, _ in model.named_parameters()}
    # The converter of GPT-2 leaves out the unembedding's bias: it has none, and zero is right.
    missing = parameters - weights.keys() - {"unembed.b_U"}
    unused = weights.keys() - parameters
    if missing or unused:
        raise RuntimeError(
            f"the weights do not fit HookedTransformer: without a weight {sorted(missing)}, "
            f"without a place {sorted(unused)}; this TransformerLens may not be supported"
        )
    model.load_state_dict(weights, strict=False, assign=True)


def convert_config(
    hf: Any, architecture: str, dtype: torch.dtype, device: torch.device
) -> HookedTransformerConfig:
    """A HookedTransformer's config from a Hugging Face config.

    Raises:
        ValueError: The config asks for something HookedTransformer cannot do.
    """
    shape = _gpt2_shape(hf) if architecture == "GPT2LMHeadModel" else _rotary_shape(hf)
    return HookedTransformerConfig(
        **shape,
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        original_architecture=architecture,
        model_name=hf.name_or_path or architecture,
        init_weights=False,
        dtype=dtype,
        device=str(device),
    )


def _gpt2_shape(hf: Any) -> dict[str, Any]:
    return {
        "n_layers": hf.n_layer,
        "d_model": hf.n_embd,
        "n_heads": hf.n_head,
        "d_head": hf.n_embd // hf.n_head,
        "d_mlp": hf.n_inner or 4 * hf.n_embd,
        "act_fn": hf.activation_function,
        "eps": hf.layer_norm_epsilon,
        "normalization_type": "LN",
        "use_attn_scale": hf.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": hf.scale_attn_by_inverse_layer_idx,
    }


def _rotary_shape(hf: Any) -> dict[str, Any]:
    """The family of Llama: RMS norms, rotary positions, grouped heads, a gated MLP."""
    if getattr(hf, "attention_bias", False) or getattr(hf, "mlp_bias", False):
        raise ValueError(
            f"{hf.model_type} with attention_bias or mlp_bias: HookedTransformer would drop these "
            "biases; use backend='bridge'"
        )
    d_head = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    shape = {
        "n_layers": hf.num_hidden_layers,
        "d_model": hf.hidden_size,
        "n_heads": hf.num_attention_heads,
        "n_key_value_heads": hf.num_key_value_heads,
        "d_head": d_head,
        "d_mlp": hf.intermediate_size,
        "act_fn": hf.hidden_activation if hf.model_type == "gemma2" else hf.hidden_act,
        "gated_mlp": True,
        "eps": hf.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "use_qk_norm": hf.model_type == "qwen3",
    }
    shape |= _rope(hf) | _windows(hf)
    if hf.model_type == "gemma2":
        shape |= {
            "attn_scale": hf.query_pre_attn_scalar**0.5,
            "attn_scores_soft_cap": hf.attn_logit_softcapping or -1.0,
            "output_logits_soft_cap": hf.final_logit_softcapping or -1.0,
            "use_normalization_before_and_after": True,
        }
    return shape


def _rope(hf: Any) -> dict[str, Any]:
    rope = hf.rope_parameters
    if rope["rope_type"] == "default":
        return {"rotary_base": rope["rope_theta"]}
    if rope["rope_type"] == "llama3":
        return {
            "rotary_base": rope["rope_theta"],
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    raise ValueError(
        f"rope type {rope['rope_type']!r} is not supported by backend 'hooked', which knows "
        "'default' and 'llama3'; use backend='bridge'"
    )


def _windows(hf: Any) -> dict[str, Any]:
    """Which layers see only the last `sliding_window` positions."""
    window = getattr(hf, "sliding_window", None)
    kinds = getattr(hf, "layer_types", None) or ["sliding_attention"] * hf.num_hidden_layers
    if window is None or "sliding_attention" not in kinds:
        return {}
    local = {"sliding_attention": "local", "full_attention": "global"}
    return {
        "use_local_attn": True,
        "window_size": window,
        "attn_types": [local[kind] for kind in kinds],
    }


def hook_names(model: HookedTransformer) -> list[str]:
    """See `Backend.hook_names`."""
    return [name for name, point in model.hook_dict.items() if _fires(model, name, point)]


def _fires(model: HookedTransformer, name: str, point: Any) -> bool:
    try:
        model.check_hooks_to_add(point, name, lambda tensor, hook: None)
    except AssertionError:
        return False
    return True


def forward(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"],
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.forward`."""
    require_context(model, attention_mask)
    residual = model(tokens, attention_mask=attention_mask, stop_at_layer=model.cfg.n_layers)
    return _last_logits(model, residual, logits_to_keep)


def step(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch new"],
    attention_mask: Int[Tensor, "batch total"],
    cache: TransformerLensKeyValueCache,
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.step`."""
    require_context(model, attention_mask)
    attention_mask = attention_mask.to(model.cfg.device)
    past = cache_length(cache)
    cache.previous_attention_mask = attention_mask[:, :past]
    residual = model(
        tokens,
        attention_mask=attention_mask[:, past:],
        past_kv_cache=cache,
        stop_at_layer=model.cfg.n_layers,
    )
    return _last_logits(model, residual, logits_to_keep)


def again(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: TransformerLensKeyValueCache,
    rows: Int[Tensor, " rows"],
    *,
    keep_kv: bool = False,
) -> Float[Tensor, "rows 1 d_model"]:
    """See `Backend.again`."""
    with silenced(model.blocks[layer]):
        return _rerun(model, layer, residual, attention_mask, cache, rows, keep_kv)


def onward(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: TransformerLensKeyValueCache,
    rows: Int[Tensor, " rows"],
) -> Float[Tensor, "rows d_vocab"]:
    """See `Backend.onward`."""
    for index in range(layer, model.cfg.n_layers):
        residual = _rerun(model, index, residual, attention_mask, cache, rows, keep_kv=False)
    return _last_logits(model, residual, None)[:, 0]


def _rerun(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: TransformerLensKeyValueCache,
    rows: Int[Tensor, " rows"],
    keep_kv: bool,
) -> Float[Tensor, "rows 1 d_model"]:
    """Run a block on a copy of these rows of its cache without their last position."""
    held = cache[layer]
    before = TransformerLensKeyValueCacheEntry(
        held.past_keys[rows, :-1], held.past_values[rows, :-1]
    )
    output = model.blocks[layer](
        residual,
        past_kv_cache_entry=before,
        attention_mask=attention_mask.to(model.cfg.device),
    )
    if not keep_kv:
        held.past_keys[rows, -1] = before.past_keys[:, -1]
        held.past_values[rows, -1] = before.past_values[:, -1]
    return output


def _last_logits(
    model: HookedTransformer, residual: Float[Tensor, "batch pos d_model"], keep: int | None
) -> Float[Tensor, "batch kept d_vocab"]:
    normed = model.ln_final(residual)
    if keep is not None:
        normed = normed[:, normed.shape[1] - keep :]
    return apply_softcap(model.unembed(normed), model.cfg.output_logits_soft_cap)


def new_cache(model: HookedTransformer, batch_size: int) -> TransformerLensKeyValueCache:
    """See `Backend.new_cache`."""
    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch_size)


def cache_length(cache: TransformerLensKeyValueCache) -> int:
    """See `Backend.cache_length`."""
    return cache[0].past_keys.shape[1]


def keep_rows(cache: TransformerLensKeyValueCache, rows: Int[Tensor, " kept"]) -> None:
    """See `Backend.keep_rows`."""
    for entry in cache.entries:
        entry.past_keys = entry.past_keys[rows]
        entry.past_values = entry.past_values[rows]
    cache.previous_attention_mask = cache.previous_attention_mask[rows]


def join(cache: TransformerLensKeyValueCache, other: TransformerLensKeyValueCache) -> None:
    """See `Backend.join`."""
    for mine, theirs in zip(cache.entries, other.entries, strict=True):
        mine.past_keys = _stack(mine.past_keys, theirs.past_keys)
        mine.past_values = _stack(mine.past_values, theirs.past_values)


def _stack(
    upper: Float[Tensor, "batch pos heads d_head"], lower: Float[Tensor, "more other heads d_head"]
) -> Float[Tensor, "rows longer heads d_head"]:
    """All rows, the shorter ones with zeros on the left."""
    length = max(upper.shape[1], lower.shape[1])
    return torch.cat(
        [pad(part, (0, 0, 0, 0, length - part.shape[1], 0)) for part in (upper, lower)]
    )


def crop(cache: TransformerLensKeyValueCache, length: int) -> None:
    """See `Backend.crop`."""
    for entry in cache.entries:
        entry.past_keys = entry.past_keys[:, :length]
        entry.past_values = entry.past_values[:, :length]
    cache.previous_attention_mask = cache.previous_attention_mask[:, :length]


def trim(cache: TransformerLensKeyValueCache, columns: int) -> None:
    """See `Backend.trim`."""
    for entry in cache.entries:
        entry.past_keys = entry.past_keys[:, columns:]
        entry.past_values = entry.past_values[:, columns:]


def unembed(
    model: HookedTransformer, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """See `Backend.unembed`."""
    states = residual.to(model.cfg.device, model.cfg.dtype).reshape(1, -1, residual.shape[-1])
    return _last_logits(model, states, None).reshape(*residual.shape[:-1], -1)
