"""Converts the config and the weights of a Hugging Face checkpoint to a HookedTransformer's.

TransformerLens 3.9 looks up a model's shape by its *name*: it does not know the R1 distillations,
takes a folder called "my-llama-tests" for a Llama, has hard-coded shapes for Gemma, and limits
Mistral and Qwen3 to 2,048 positions. Here the shape comes from the checkpoint's own config, and
only the conversion of the weights is TransformerLens's.
"""

from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformerConfig

from mi_lens.models.architectures import weight_converter


def convert_weights(hf_model: Any, cfg: HookedTransformerConfig) -> dict[str, Tensor]:
    """The weights as trained (nothing is folded or centred), by TransformerLens's names.

    Matrices are transposed views of Hugging Face's. The forward pass can use this layout without
    copying it.
    """
    architecture = type(hf_model).__name__
    weights = weight_converter(architecture)(hf_model, cfg)
    if architecture in ("Gemma2ForCausalLM", "Gemma3ForCausalLM"):
        weights |= _gemma_norms(hf_model)
    return {key: value.detach().to(cfg.dtype) for key, value in weights.items()}


def _gemma_norms(hf_model: Any) -> dict[str, Tensor]:
    """The weights 1 + w of Gemma's norms, in w's own dtype; the converter computes in float32."""
    norm_names = {
        "input_layernorm": "ln1",
        "post_attention_layernorm": "ln1_post",
        "pre_feedforward_layernorm": "ln2",
        "post_feedforward_layernorm": "ln2_post",
    }
    norms = {"ln_final.w": 1 + hf_model.model.norm.weight}
    for index, layer in enumerate(hf_model.model.layers):
        for hf_name, name in norm_names.items():
            norms[f"blocks.{index}.{name}.w"] = 1 + getattr(layer, hf_name).weight
        for name in ("q_norm", "k_norm"):  # Gemma 3's
            if hasattr(layer.self_attn, name):
                weight = getattr(layer.self_attn, name).weight
                norms[f"blocks.{index}.attn.{name}.w"] = 1 + weight
    return norms


def convert_config(hf_model: Any) -> HookedTransformerConfig:
    """The config of a HookedTransformer with the shape of a Hugging Face model.

    Raises:
        ValueError: If the model needs something that HookedTransformer cannot do.
    """
    hf, architecture = hf_model.config, type(hf_model).__name__
    return HookedTransformerConfig(
        **shape(hf),
        d_vocab=hf.vocab_size,
        n_ctx=hf.max_position_embeddings,
        original_architecture=architecture,
        model_name=hf.name_or_path or architecture,
        init_weights=False,
        dtype=hf_model.dtype,
        device=str(hf_model.device),
    )


def shape(hf: Any) -> dict[str, Any]:
    """What a HookedTransformer's config says of a model's shape.

    Args:
        hf: Hugging Face's config, of an architecture in `CONVERTERS`.

    Raises:
        ValueError: If the model needs something that HookedTransformer cannot do.
    """
    return _gpt2_shape(hf) if hf.model_type == "gpt2" else _rotary_shape(hf)


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
    """The shape of a Llama-like model: RMS norms, rotary positions, grouped heads, gated MLP."""
    if getattr(hf, "attention_bias", False) or getattr(hf, "mlp_bias", False):
        raise ValueError(
            f"{hf.model_type} with attention_bias or mlp_bias: HookedTransformer would drop these "
            "biases; use backend='bridge'"
        )
    if getattr(hf, "use_bidirectional_attention", False):
        raise ValueError(
            f"{hf.model_type} with use_bidirectional_attention: HookedTransformer only looks back; "
            "use backend='bridge'"
        )
    d_head = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    is_gemma = hf.model_type in ("gemma2", "gemma3_text")
    shape = {
        "n_layers": hf.num_hidden_layers,
        "d_model": hf.hidden_size,
        "n_heads": hf.num_attention_heads,
        "n_key_value_heads": hf.num_key_value_heads,
        "d_head": d_head,
        "d_mlp": hf.intermediate_size,
        "act_fn": hf.hidden_activation if is_gemma else hf.hidden_act,
        "gated_mlp": True,
        "eps": hf.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "use_qk_norm": hf.model_type in ("qwen3", "gemma3_text"),
    }
    shape |= _rope(hf) | _windows(hf)
    if is_gemma:
        shape |= {
            "attn_scale": hf.query_pre_attn_scalar**0.5,
            "attn_scores_soft_cap": hf.attn_logit_softcapping or -1.0,
            "output_logits_soft_cap": hf.final_logit_softcapping or -1.0,
            "use_normalization_before_and_after": True,
        }
    return shape


def _rope(hf: Any) -> dict[str, Any]:
    """Rotary positions; Gemma 3's layers with a window have frequencies of their own."""
    rope, local = hf.rope_parameters, None
    if "full_attention" in rope:
        rope, local = rope["full_attention"], rope["sliding_attention"]
    settings: dict[str, Any] = {"rotary_base": rope["rope_theta"]}
    if local is not None:
        settings["rotary_base_local"] = local["rope_theta"]
    kind = rope["rope_type"]
    if kind == "llama3":
        settings |= {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": rope["factor"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        }
    elif kind == "linear":
        settings["rotary_scaling_factor"] = rope["factor"]
    elif kind != "default":
        raise ValueError(
            f"rope type {kind!r} is not supported by backend 'hooked', which knows 'default', "
            "'linear' and 'llama3'; use backend='bridge'"
        )
    if (local or rope)["rope_type"] not in ("default", kind) or _turned_share(hf, rope) != 1:
        raise ValueError(
            f"{hf.model_type} with these rope_parameters, {hf.rope_parameters}: HookedTransformer "
            "turns whole heads, and scales no layers with a window; use backend='bridge'"
        )
    return settings


def _turned_share(hf: Any, rope: dict[str, Any]) -> float:
    """The share of a head's dimensions that positions turn."""
    return rope.get("partial_rotary_factor") or getattr(hf, "partial_rotary_factor", None) or 1.0


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
