"""Builds a HookedTransformer from a Hugging Face model, of faster classes."""

import warnings
from typing import Any

from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.transformer_block import TransformerBlock
from transformer_lens.components.unembed import Unembed
from transformer_lens.hook_points import HookPoint

from mi_lens.models.architectures import CONVERTERS
from mi_lens.models.backends.attention import FastAttention, FastGroupedAttention
from mi_lens.models.backends.block import (
    FastBlock,
    FastGatedMLP,
    FastHookPoint,
    FastRMSNorm,
    FastUnembed,
)
from mi_lens.models.backends.conversion import convert_config, convert_weights, shape
from mi_lens.models.backends.fused import Joint

SMALL_BLOCK = 2**22  # Weights of a block.


def build(hf_model: Any, tokenizer: Any) -> HookedTransformer:
    """See `Backend.build`. The Hugging Face weights are taken over, not copied.

    Tied embeddings stay tied: `W_E` and `W_U` then share memory.
    """
    cfg = convert_config(hf_model)
    with warnings.catch_warnings():
        # TransformerLens warns that HookedTransformer is deprecated in favour of the bridge.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(cfg, move_to_device=False)
    _take_weights(model, convert_weights(hf_model, cfg))
    _speed_up(model)
    # By name: of a device TransformerLens would keep the type, and forget which one of several.
    model.to(str(hf_model.device), print_details=False)
    for module in hf_model.modules():  # Each weight is freed once it is joined with others.
        module._parameters.clear()
    model.requires_grad_(False)
    for block in model.blocks:
        block.attn.attn_scale = float(block.attn.attn_scale)  # NumPy's stops torch.compile.
        weights = sum(parameter.numel() for parameter in block.parameters())
        # On a CPU the weights of a large model stay in its mapped files, and one product instead of
        # several gains it nothing.
        if cfg.device != "cpu" or weights < SMALL_BLOCK:
            _join_weights(block)
    if tokenizer is not None:
        # set_tokenizer would load it a second time, and add a BOS token that it does not have.
        model.tokenizer = tokenizer
        cfg.tokenizer_prepends_bos = cfg.default_prepend_bos = len(tokenizer("")["input_ids"]) > 0
    return model.eval()


def require_buildable(hf_config: Any) -> None:
    """See `Backend.require_buildable`."""
    shape(hf_config)


def _take_weights(model: HookedTransformer, weights: dict[str, Tensor]) -> None:
    parameters = {key for key, _ in model.named_parameters()}
    # Biases that no model of the architecture has, and that stay zero where a converter gives none.
    no_bias = {"unembed.b_U"}
    if model.cfg.gated_mlp:
        no_bias |= {key for key in parameters if key.endswith((".mlp.b_in", ".mlp.b_out"))}
    missing = parameters - weights.keys() - no_bias
    # One converter gives zeros as a bias to norms that have none.
    unused = {key for key in weights.keys() - parameters if not key.endswith((".ln1.b", ".ln2.b"))}
    if missing or unused:
        raise RuntimeError(
            f"the weights do not fit HookedTransformer: missing {sorted(missing)}, unexpected "
            f"{sorted(unused)}; mi_lens may not support this version of TransformerLens"
        )
    kept = {key: weight for key, weight in weights.items() if key in parameters}
    model.load_state_dict(kept, strict=False, assign=True)


def _join_weights(block: Any) -> None:
    attention, mlp = block.attn, block.mlp
    if isinstance(attention, FastGroupedAttention):
        attention.joint = Joint(attention, ("W_Q", "_W_K", "_W_V"), ("b_Q", "_b_K", "_b_V"))
    elif isinstance(attention, FastAttention):
        attention.joint = Joint(attention, ("W_Q", "W_K", "W_V"), ("b_Q", "b_K", "b_V"))
    if isinstance(mlp, FastGatedMLP):
        mlp.joint = Joint(mlp, ("W_gate", "W_in"))


FASTER = {
    Attention: FastAttention,
    GatedMLP: FastGatedMLP,
    GroupedQueryAttention: FastGroupedAttention,
    HookPoint: FastHookPoint,
    RMSNorm: FastRMSNorm,
    TransformerBlock: FastBlock,
    Unembed: FastUnembed,
}


def _speed_up(model: HookedTransformer) -> None:
    """Replace the classes of a model's modules by faster ones; weights and hooks stay."""
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
        # As plain attributes its modules are found without the slow nn.Module.__getattr__.
        module.__dict__.update(module._modules)


def require_fast(model: HookedTransformer) -> None:
    """Exchanges the classes of a model that TransformerLens built."""
    if isinstance(model.blocks[0], FastBlock):
        return
    architecture = model.cfg.original_architecture
    if architecture not in CONVERTERS:
        remedy = (
            "load the checkpoint with mi_lens.load"
            if architecture
            else "a model built from a config has none; say in model.cfg.original_architecture "
            "which of these it is"
        )
        raise ValueError(
            f"architecture {architecture!r}: backend 'hooked' supports only "
            f"{list(CONVERTERS)}; {remedy}"
        )
    _speed_up(model)
