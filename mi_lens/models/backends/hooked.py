"""The backend for HookedTransformer, built from a checkpoint of any supported architecture.

The weights stay as trained: nothing is folded into norms and nothing is centred, because both
would change the residual stream that is to be measured. The attention is that of
`mi_lens.models.backends.attention`, and the cache that of `mi_lens.models.backends.cache`. All
hooks are at the same places as in TransformerLens and see the same values.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_lens.models.backends.attention import LayerStep
from mi_lens.models.backends.cache import Cache
from mi_lens.models.backends.context import require_context
from mi_lens.models.backends.hooked_building import build, require_buildable, require_fast
from mi_lens.models.backends.hooked_passes import last_logits, run
from mi_lens.models.backends.kernels import no_cudnn_attention
from mi_lens.models.backends.positions import Positions, padding_of
from mi_lens.models.backends.recorded_steps import RecordedStep, recorder_for
from mi_lens.models.backends.silence import silenced

__all__ = ["build", "require_buildable"]

name = "hooked"


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
    require_fast(model)
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
    recorder = recorder_for(positions.device) if new == logits_to_keep == 1 else None
    if recorder is None or not torch.is_inference_mode_enabled():
        logits = run(model, tokens, positions, cache.layers, logits_to_keep)
    else:
        cache.recorded = cache.recorded or RecordedStep(model, recorder)
        logits = cache.recorded.logits(cache, tokens.to(positions.device), positions)
    cache.columns = past + new
    return logits


@no_cudnn_attention()
def some_blocks(
    model: HookedTransformer,
    blocks: range,
    residual: Float[Tensor, "1 new d_model"],
    cache: Cache,
) -> Float[Tensor, "1 new d_model"]:
    """See `Backend.some_blocks`."""
    positions = Positions(None, cache.columns, residual.shape[1], residual.device)
    for layer in blocks:
        with silenced(model.blocks[layer]):
            residual = model.blocks[layer](
                residual, past_kv_cache_entry=LayerStep(positions, cache[layer])
            )
    cache.columns += residual.shape[1]
    return residual


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
    with silenced(model.blocks[layer]):
        if cache.recorded is not None and cache.recorded.can_run_again(cache, layer):
            return cache.recorded.again(cache[layer], layer, residual, rows, keep_kv)
        positions = _last_position(attention_mask, residual)
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
    require_fast(model)
    return Cache(model.cfg.n_layers)


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


def take_back(cache: Cache, taken: Mapping[int, int]) -> None:
    """See `Backend.take_back`. Slots begin with a row's first token, and stay as they are."""
    cache.take_back()


def unembed(
    model: HookedTransformer, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """See `Backend.unembed`."""
    states = residual.to(model.cfg.device, model.cfg.dtype).reshape(1, -1, residual.shape[-1])
    return last_logits(model, states, None).reshape(*residual.shape[:-1], -1)
