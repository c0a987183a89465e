"""Some blocks of a bridge run alone, with all that Hugging Face's model gives them."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mi_lens.models.backends.bridge_hooks import probed, silence
from mi_lens.models.backends.bridge_passes import step


def some_blocks(
    model: TransformerBridge,
    blocks: range,
    residual: Float[Tensor, "1 new d_model"],
    cache: DynamicCache,
) -> Float[Tensor, "1 new d_model"]:
    """See `Backend.some_blocks`."""
    last = blocks[-1]
    past = cache.get_seq_length(last) if len(cache.layers) > last else 0
    while len(cache.layers) <= last:  # a block finds its own layer by number
        cache.layers.append(DynamicLayer())
    whole = _cache_of_length(model, past)
    for layer in blocks:
        whole.layers[layer] = cache.layers[layer]
    mask = torch.ones(1, past + residual.shape[1], dtype=torch.long)
    with silence(model):
        return _run_blocks(model, blocks, residual, mask, whole)[0]


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
    blocks = range(layer, layer + 1)
    past = _before_last(model, attention_mask, cache, rows, blocks)
    with silence(model):
        output, _ = _run_blocks(model, blocks, residual, attention_mask, past)
    if not keep_kv:
        _replace_last(cache, rows, past, blocks)
    return output


def onward(
    model: TransformerBridge,
    layer: int,
    residual: Float[Tensor, "rows 1 d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: DynamicCache,
    rows: Int[Tensor, " rows"],
) -> Float[Tensor, "rows d_vocab"]:
    """See `Backend.onward`."""
    blocks = range(layer, model.cfg.n_layers)
    past = _before_last(model, attention_mask, cache, rows, blocks)
    with _silent_before_blocks(model):
        _, logits = _run_blocks(model, blocks, residual, attention_mask, past, logits_to_keep=1)
    _replace_last(cache, rows, past, blocks)
    return logits[:, 0]


def _before_last(
    model: TransformerBridge,
    attention_mask: Int[Tensor, "rows total"],
    cache: DynamicCache,
    rows: Int[Tensor, " rows"],
    blocks: range,
) -> DynamicCache:
    """A copy of these blocks' caches that has these rows without their last position."""
    past, layers = _cache_of_length(model, attention_mask.shape[1] - 1), layers_of(cache)
    rows_on = on_each_device(rows, [layers[layer] for layer in blocks])
    for layer in blocks:
        full = layers[layer]
        here = rows_on[full.keys.device]
        before = DynamicLayer()
        before.keys, before.values = full.keys[here, :, :-1], full.values[here, :, :-1]
        before.is_initialized = True  # What `update` would set; it uploads an empty tensor.
        past.layers[layer] = before
    return past


def _replace_last(
    cache: DynamicCache, rows: Int[Tensor, " rows"], rerun: DynamicCache, blocks: range
) -> None:
    """Give these rows the keys and values that a rerun made for their last position."""
    layers, reruns = layers_of(cache), layers_of(rerun)
    rows_on = on_each_device(rows, [layers[layer] for layer in blocks])
    for layer in blocks:
        full, new = layers[layer], reruns[layer]
        here = rows_on[full.keys.device]
        full.keys[here, :, -1] = new.keys[:, :, -1]
        full.values[here, :, -1] = new.values[:, :, -1]


def layers_of(cache: DynamicCache) -> list[Any]:
    """The layers of a cache, each with `keys` and `values`, `[batch, kv_heads, pos, d_head]`."""
    return list(cache.layers)


def on_each_device(
    rows: Int[Tensor, " rows"], layers: Iterable[Any]
) -> dict[torch.device, Int[Tensor, " rows"]]:
    """Indices of rows on every device where one of these layers of a cache lies."""
    return {device: rows.to(device) for device in {layer.keys.device for layer in layers}}


def _cache_of_length(model: TransformerBridge, length: int) -> DynamicCache:
    """A cache with the right number of positions and nothing in them.

    Hugging Face asks the cache of the first layer, or of the first of a kind, for its length.
    """
    cache = DynamicCache()
    for _ in range(model.cfg.n_layers):
        layer = DynamicLayer()
        if length:
            layer.keys = layer.values = torch.zeros(1, device="meta").expand(1, 1, length, 1)
            layer.is_initialized = True
        cache.layers.append(layer)
    return cache


def _run_blocks(
    model: TransformerBridge,
    blocks: range,
    residual: Float[Tensor, "rows new d_model"],
    attention_mask: Int[Tensor, "rows total"],
    cache: DynamicCache,
    logits_to_keep: int = 0,
) -> tuple[Float[Tensor, "rows new d_model"], Float[Tensor, "rows kept d_vocab"]]:
    """Run Hugging Face's model with some of its blocks only, on a given residual stream.

    So masks, rotary angles and whatever else an architecture gives its blocks are its own, and so
    are the final norm and the scale of the logits.

    Args:
        model: The model.
        blocks: The blocks to run; an empty range at its end runs none.
        residual: The input of the first of them.
        attention_mask: The mask of past and new positions.
        cache: A cache of the past, filled at these blocks.
        logits_to_keep: Number of last positions at which logits are computed.

    Returns:
        The output of the last of these blocks, and the logits.
    """
    returns_tuples = probed(model).returns_tuples
    stream = residual

    def run(index: int, *args: Any, **kwargs: Any) -> Any:
        nonlocal stream
        if index in blocks:
            if args:
                args = (stream, *args[1:])
            else:
                kwargs["hidden_states"] = stream
            output = type(model.blocks[index]).forward(model.blocks[index], *args, **kwargs)
            stream = output[0] if isinstance(output, tuple) else output
        return (stream,) if returns_tuples else stream

    tokens = torch.zeros(residual.shape[:2], dtype=torch.long, device=model.cfg.device)
    try:
        for index, bridge in enumerate(model.blocks):
            bridge.__dict__["forward"] = partial(run, index)  # setting it would reach inside
        logits = step(model, tokens, attention_mask, cache, logits_to_keep)
    finally:
        for bridge in model.blocks:
            bridge.__dict__.pop("forward", None)
    return stream, logits


@contextmanager
def _silent_before_blocks(model: TransformerBridge) -> Iterator[None]:
    """Inside, no hook of the embedding and of what else comes before the blocks fires."""
    with ExitStack() as stack:
        for part in model.adapter.get_component_mapping():
            if part not in ("blocks", "ln_final", "unembed"):
                stack.enter_context(silence(getattr(model, part)))
        yield


def unembed(
    model: TransformerBridge, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """See `Backend.unembed`."""
    # Each state is a row of its own, so that their number needs no context and no mask.
    states = residual.to(model.cfg.device, model.cfg.dtype).reshape(-1, 1, residual.shape[-1])
    end = model.cfg.n_layers
    mask = torch.ones(len(states), 1, dtype=torch.long)
    with _silent_before_blocks(model):
        _, logits = _run_blocks(
            model, range(end, end), states, mask, _cache_of_length(model, 0), logits_to_keep=1
        )
    return logits.reshape(*residual.shape[:-1], -1)
