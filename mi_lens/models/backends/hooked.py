"""The backend for HookedTransformer, built from a checkpoint of any supported architecture.

The weights stay as trained: nothing is folded into norms and nothing is centred, because both
would change the residual stream that is to be measured. The attention is that of
`mi_lens.models.backends.attention`, and the cache that of `mi_lens.models.backends.cache`. All
hooks are at the same places as in TransformerLens and see the same values.
"""

import warnings
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
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
from mi_lens.models.backends.attention import FastAttention, FastGroupedAttention, LayerStep
from mi_lens.models.backends.block import (
    FastBlock,
    FastGatedMLP,
    FastHookPoint,
    FastRMSNorm,
    FastUnembed,
)
from mi_lens.models.backends.cache import Cache
from mi_lens.models.backends.context import require_context
from mi_lens.models.backends.conversion import convert_config, convert_weights, shape
from mi_lens.models.backends.fused import Joint
from mi_lens.models.backends.hooked_passes import last_logits, run
from mi_lens.models.backends.kernels import no_cudnn_attention
from mi_lens.models.backends.positions import Positions, padding_of
from mi_lens.models.backends.silence import silenced

name = "hooked"


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
    model.to(hf_model.device, print_details=False)
    for module in hf_model.modules():  # Each weight is freed once it is joined with others.
        module._parameters.clear()
    model.requires_grad_(False)
    for block in model.blocks:
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


def hook_names(model: HookedTransformer) -> list[str]:
    """See `Backend.hook_names`."""
    return [name for name, point in model.hook_dict.items() if _fires(model, name, point)]


def _fires(model: HookedTransformer, name: str, point: Any) -> bool:
    try:
        model.check_hooks_to_add(point, name, lambda tensor, hook: None)
    except AssertionError:
        return False
    return True


def tokens_hook(model: HookedTransformer) -> str | None:
    """See `Backend.tokens_hook`."""
    return "hook_tokens" if model.cfg.use_hook_tokens else None


def is_own_hook(module: Any, function: Callable[..., Any]) -> bool:
    """See `Backend.is_own_hook`. The class has no hooks of its own."""
    return False


@no_cudnn_attention()
def forward(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch pos"],
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.forward`."""
    _require_fast(model)
    require_context(model, attention_mask)
    positions = Positions(padding_of(attention_mask), 0, tokens.shape[1], model.cfg.device)
    return run(model, tokens, positions, [None] * model.cfg.n_layers, logits_to_keep)


@no_cudnn_attention()
def step(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch new"],
    attention_mask: Int[Tensor, "batch total"],
    cache: Cache,
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept d_vocab"]:
    """See `Backend.step`."""
    require_context(model, attention_mask)
    past, new = cache.columns, tokens.shape[1]
    positions = Positions(padding_of(attention_mask), past, new, model.cfg.device)
    logits = run(model, tokens, positions, cache.layers, logits_to_keep)
    cache.columns = past + new
    return logits


@no_cudnn_attention()
def block(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "1 new d_model"],
    cache: Cache,
) -> Float[Tensor, "1 new d_model"]:
    """See `Backend.block`."""
    positions = Positions(None, cache.columns, residual.shape[1], residual.device)
    with silenced(model.blocks[layer]):
        output = model.blocks[layer](
            residual, past_kv_cache_entry=LayerStep(positions, cache[layer])
        )
    cache.columns += residual.shape[1]
    return output


@no_cudnn_attention()
def again(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: Cache,
    rows: Int[Tensor, " rows"],
    *,
    keep_kv: bool = False,
) -> Float[Tensor, "rows 1 d_model"]:
    """See `Backend.again`."""
    positions = _last_position(attention_mask, residual)
    with silenced(model.blocks[layer]):
        return _rerun(model, layer, residual, positions, cache, rows, keep_kv)


@no_cudnn_attention()
def onward(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: Cache,
    rows: Int[Tensor, " rows"],
) -> Float[Tensor, "rows d_vocab"]:
    """See `Backend.onward`."""
    positions = _last_position(attention_mask, residual)
    for index in range(layer, model.cfg.n_layers):
        residual = _rerun(model, index, residual, positions, cache, rows, keep_kv=False)
    return last_logits(model, residual, None)[:, 0]


def _last_position(
    attention_mask: Int[Tensor, "rows total"], residual: Float[Tensor, "rows 1 d_model"]
) -> Positions:
    padding, total = padding_of(attention_mask), attention_mask.shape[1]
    return Positions(padding, total - 1, 1, residual.device)


def _rerun(
    model: HookedTransformer,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    positions: Positions,
    cache: Cache,
    rows: Int[Tensor, " rows"],
    keep_kv: bool,
) -> Float[Tensor, "rows 1 d_model"]:
    """Run a block on a copy of these rows, whose last position it writes anew."""
    copy = cache[layer].copy_of(rows)
    output = model.blocks[layer](residual, past_kv_cache_entry=LayerStep(positions, copy))
    if not keep_kv:
        cache[layer].replace(rows, positions.position[:, 0].expand(len(rows)), copy)
    return output


def new_cache(model: HookedTransformer, batch_size: int) -> Cache:
    """See `Backend.new_cache`.

    Raises:
        ValueError: If TransformerLens built this model, with an architecture not in our table.
    """
    _require_fast(model)
    return Cache(model.cfg.n_layers)


def _require_fast(model: HookedTransformer) -> None:
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


def cache_length(cache: Cache) -> int:
    """See `Backend.cache_length`."""
    return cache.columns


def keep_rows(cache: Cache, rows: Int[Tensor, " kept"]) -> None:
    """See `Backend.keep_rows`."""
    cache.keep_rows(rows)


def copy_rows(
    cache: Cache, sources: Int[Tensor, " copies"], targets: Int[Tensor, " copies"]
) -> None:
    """See `Backend.copy_rows`."""
    cache.copy_rows(sources, targets)


def join(cache: Cache, other: Cache, rows: Int[Tensor, " rows"] | None = None) -> None:
    """See `Backend.join`."""
    cache.join(other, rows)


def crop(cache: Cache, length: int) -> None:
    """See `Backend.crop`. What is behind stays until it is written anew; nothing sees it."""
    cache.columns = min(cache.columns, length)


def trim(cache: Cache, columns: int) -> None:
    """See `Backend.trim`. Slots hold no padding."""
    cache.columns -= columns


def unembed(
    model: HookedTransformer, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """See `Backend.unembed`."""
    states = residual.to(model.cfg.device, model.cfg.dtype).reshape(1, -1, residual.shape[-1])
    return last_logits(model, states, None).reshape(*residual.shape[:-1], -1)
