"""Small GGUF files as llama.cpp's converter writes them, and what their weights are worth.

The names and the layouts are written out here, so that they test the tables that the package uses.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
BLOCK_NORMS = {
    "post_attention_layernorm": "ffn_norm",
}
GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
GPT2_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}
# Where a block of a type that cannot be written by quantize() holds its float16 scales.
SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def llama_cpp_name(name: str, architecture: str) -> str:
    """llama.cpp's name of a weight of Hugging Face's model."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, _, number, part = stem.split(".", 3)
    if architecture == "gpt2":
        return f"blk.{number}.{GPT2_BLOCK[part]}.{kind}"
    norms = GEMMA_NORMS if architecture == "gemma2" else BLOCK_NORMS
    return f"blk.{number}.{(BLOCK | norms)[part]}.{kind}"


def halves_to_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Llama's rows of a head: Hugging Face rotates halves, llama.cpp neighbours."""
    two_halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return two_halves.transpose(1, 2).reshape(weight.shape)


def pairs_to_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undoes `halves_to_pairs`."""
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def random_blocks(shape: tuple[int, ...], kind: str, seed: int) -> np.ndarray:
    """Any bytes are valid blocks, as long as their scales are finite."""
    per_block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0], shape[1] // per_block, size), dtype=np.uint8)
    for place in SCALES[kind]:
        scale = rng.uniform(3e-5, 1e-4, blocks.shape[:2]).astype(np.float16)
        blocks[..., place : place + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    kind: str = "F32",
    pre: str = "qwen2",
    tensors: Mapping[str, np.ndarray | None] = MappingProxyType({}),
    **changes: Any,
) -> dict[str, torch.Tensor]:
    """Writes a Hugging Face model; norms and biases in float32, as always.

    Args:
        path: The file to write.
        model: A small model of one of the architectures in this file.
        tokenizer: A fast byte-level tokenizer, or None to write none.
        kind: The type of the matrices. They are random where gguf cannot quantise to it.
        pre: The name of the tokenizer's splitting.
        tensors: Further tensors by their names in the file; None leaves one out.
        changes: Values by their names in the file; None leaves a name out.

    Returns:
        Hugging Face's names of the weights, with the values that the file gives them.
    """
    config = model.config
    writer = GGUFWriter(path, architecture_of(config))
    values = settings(config) | (tokenizer_fields(tokenizer, config, pre) if tokenizer else {})
    for name, value in (values | changes).items():
        if value is not None:
            add(writer, name, value)
    worth = {}
    for seed, (name, weight) in enumerate(weights_of(model).items()):
        if llama_cpp_name(name, config.model_type) in tensors:
            continue
        stored, worth[name] = stored_weight(name, weight, config, kind, seed)
        type_ = GGMLQuantizationType[kind if stored.dtype == np.uint8 else "F32"]
        raw = type_ if stored.dtype == np.uint8 else None
        writer.add_tensor(llama_cpp_name(name, config.model_type), stored, raw_dtype=raw)
    for name, tensor in tensors.items():
        if tensor is not None:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return worth


def architecture_of(config: Any) -> str:
    """llama.cpp's name: it takes a Mistral for a Llama."""
    return "llama" if config.model_type == "mistral" else config.model_type


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """The weights without copies of tied ones."""
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def stored_weight(
    name: str, weight: torch.Tensor, config: Any, kind: str, seed: int
) -> tuple[np.ndarray, torch.Tensor]:
    """A weight as it lies in the file, and as the model is to have it."""
    turned = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    heads = [getattr(config, turned[part]) for part in turned if f".{part}." in name]
    turn = bool(heads) and architecture_of(config) == "llama"
    flip = config.model_type == "gpt2" and weight.ndim == 2 and ".h." in name
    offset = 1.0 if config.model_type == "gemma2" and weight.ndim == 1 else 0.0
    in_file = weight.T if flip else halves_to_pairs(weight, heads[0]) if turn else weight + offset
    values = in_file.contiguous().numpy()
    if weight.ndim == 2 and kind != "F32":
        type_ = GGMLQuantizationType[kind]
        random = kind in SCALES
        values = random_blocks(values.shape, kind, seed) if random else quantize(values, type_)
        worth = torch.from_numpy(dequantize(values, type_).astype(np.float32))
        values = values if values.dtype == np.uint8 else values.view(np.uint8)
    else:
        worth = in_file
    return values, worth.T if flip else pairs_to_halves(worth, heads[0]) if turn else worth - offset


def settings(config: Any) -> dict[str, Any]:
    """The settings that llama.cpp's converter writes."""
    kind = architecture_of(config)
    values = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
    }
    if kind == "gpt2":
        values |= {"feed_forward_length": config.n_inner or 4 * config.n_embd}
        values |= {"attention.layer_norm_epsilon": config.layer_norm_epsilon}
    else:
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        values |= {
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "attention.key_length": head,
            "attention.value_length": head,
            "rope.dimension_count": head,
            "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        }
    if kind == "gemma2":
        del values["rope.freq_base"], values["rope.dimension_count"]
        values |= {
            "attention.sliding_window": config.sliding_window,
            "attn_logit_softcapping": config.attn_logit_softcapping,
            "final_logit_softcapping": config.final_logit_softcapping,
        }
    return {f"{kind}.{name}": value for name, value in values.items()}


def tokenizer_fields(tokenizer: Any, config: Any, pre: str) -> dict[str, Any]:
    """A tokenizer as the converter writes it: padded with unused tokens to the embeddings."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {each["id"]: each for each in state["added_tokens"]}
    names = {number: token for token, number in state["model"]["vocab"].items()}
    names |= {number: each["content"] for number, each in added.items()}
    tokens, types = [], []
    for number in range(config.vocab_size):
        tokens.append(names.get(number, f"[PAD{number}]"))
        if number in added:
            types.append(TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.NORMAL if number in names else TokenType.UNUSED)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(each) for each in types],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in state["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def add(writer: GGUFWriter, name: str, value: Any) -> None:
    """A value under a name, in the type that llama.cpp gives it."""
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
