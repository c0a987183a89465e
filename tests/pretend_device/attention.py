"""Attention as PyTorch with CUDA computes it: which kernel serves a call, and what it launches.

The rules are those of PyTorch 2.13 on a card of compute capability 8 or 9. Kernels that the caller
has turned off (`torch.backends.cuda.enable_cudnn_sdp` and its like) are not taken.
"""

from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional
from torch.nn.attention.bias import CausalBias, CausalVariant

from tests.pretend_device.counts import Counts, line_of_package
from tests.pretend_device.tensor import PretendTensor, held

HALF = torch.float16, torch.bfloat16


def kernel_for(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, grouped: bool, cudnn: bool
) -> str:
    """The name of the kernel: "cudnn", "flash", "efficient" or "math".

    Args:
        query: `[batch, heads, new, d_head]`, on a device.
        key: `[batch, heads, total, d_head]`; values are taken to be laid out alike.
        mask: None, or what is added to the scores.
        causal: Whether the kernel is to mask the upper triangle by itself.
        grouped: Whether several heads of queries share one of keys.
        cudnn: Whether cuDNN comes first, as on a H100 with PyTorch 2.11 and later.
    """
    size, half = query.shape[-1], query.dtype in HALF
    dense = all(t.stride(-1) == 1 for t in (query, key) + (() if mask is None else (mask,)))
    square = not causal or query.shape[-2] == key.shape[-2]
    takes = {
        "cudnn": cudnn
        and cuda.cudnn_sdp_enabled()
        and (half and dense and square and size <= 128 and size % 8 == 0 and key.shape[-2] > 1),
        "flash": cuda.flash_sdp_enabled()
        and (half and dense and square and mask is None and size <= 256),
        "efficient": cuda.mem_efficient_sdp_enabled()
        and (query.dtype != torch.float64 and dense and not grouped)
        and size % (8 if half else 4) == 0,
        "math": True,
    }
    return next(kernel for kernel, takes_it in takes.items() if takes_it)


def attend(
    counts: list[Counts],
    cudnn: bool,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` of tensors on a pretend device.

    Args:
        counts: Where to count.
        cudnn: See `kernel_for`.
        query: See the PyTorch function, as all that follow.
    """
    grouped = query.shape[-3] != key.shape[-3]
    mask, corner = attn_mask, None
    if isinstance(attn_mask, CausalBias):
        square = attn_mask.seq_len_q == attn_mask.seq_len_kv
        mask, is_causal = None, square or attn_mask.variant == CausalVariant.UPPER_LEFT
        corner = None if is_causal else attn_mask
    # PyTorch's choice for a corner leaves cuDNN out, and the last kernel needs it as a mask.
    kernel = kernel_for(query, key, mask, is_causal, grouped, cudnn and corner is None)
    if corner is not None and kernel == "math":
        mask, corner = corner._materialize(query.device), None
        kernel = kernel_for(query, key, mask, is_causal, grouped, cudnn)
    if mask is not None and mask.dtype == torch.bool:
        lowest = torch.scalar_tensor(-torch.inf, dtype=query.dtype, device=query.device)
        mask = torch.where(mask, 0.0, lowest)
    if kernel == "efficient" and mask is not None:
        mask = _aligned(mask)
    _count(counts, kernel, query, key, value, mask)
    settings = {"scale": scale, "enable_gqa": enable_gqa}
    if kernel == "math":
        run = torch.ops.aten._scaled_dot_product_attention_math
        return run(query, key, value, mask, 0.0, is_causal, None, **settings)[0]
    host_mask = held(mask) if corner is None else corner._materialize()
    host = query.held, key.held, value.held
    made = functional.scaled_dot_product_attention(*host, host_mask, 0.0, is_causal, **settings)
    for count in counts:
        count.launches[f"attention by {kernel}", line_of_package()] += 1
    return PretendTensor(made, query.device)


def _count(
    counts: list[Counts], kernel: str, query: Tensor, key: Tensor, value: Tensor, mask: Any
) -> None:
    """Counts a call of a kernel by what it was given."""
    given = (
        f"{kernel}, {str(query.dtype).removeprefix('torch.')}, "
        f"{'no mask' if mask is None else 'mask'}, "
        f"{'grouped' if query.shape[-3] != key.shape[-3] else 'equal'} heads"
    )
    tensors = (query, key, value) + (() if mask is None else (mask,))
    shapes = tuple((tuple(tensor.shape), tensor.stride()) for tensor in tensors)
    for count in counts:
        count.attention[given, line_of_package()] += 1
        count.plans.setdefault(kernel, set()).add(shapes)


def _aligned(mask: Tensor) -> Tensor:
    """A mask with strides that are multiples of 8, which the memory-efficient kernel needs."""
    if all(stride % 8 == 0 for stride in mask.stride()[:-1]):
        return mask
    total = mask.shape[-1]
    return functional.pad(mask, (0, 8 - total % 8))[..., :total]
