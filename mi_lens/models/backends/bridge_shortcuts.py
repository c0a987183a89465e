"""Hugging Face's own modules in a bridge's pass, where no hook watches what they would hide.

The bridge computes norms, attention and fused projections step by step, so that hooks can see the
steps: about half as many operations again as Hugging Face's model needs. Where nobody watches, a
component runs the module that it wraps: `hook_in`, the module, `hook_out`. Parts of the module are
components of the bridge too, and their hooks fire.

Which components can do so is not listed: `bridge_trial.find_shortcuts` tries it on each model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    JointGateUpMLPBridge,
    NormalizationBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# Names of attention in a Hugging Face config. What a name says of the batch decides its mask.
PADDED, UNPADDED = "mi_lens_padded", "mi_lens_unpadded"

# What attention is told and need not use: masks say it already.
NOT_NEEDED = {"sliding_window", "position_ids", "cache_position"}
USED = set(signature(sdpa_attention_forward).parameters)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **told: Any
) -> tuple[Tensor, None]:
    """Hugging Face's attention by PyTorch's kernel, refused where it would leave something out.

    Raises:
        NotImplementedError: If attention needs something else, as a softcap or sinks.
    """
    told_more = {name for name, value in told.items() if not isinstance(value, bool | None)}
    if unknown := told_more - USED - NOT_NEEDED:
        raise NotImplementedError(f"PyTorch's attention kernel has no {sorted(unknown)}")
    return sdpa_attention_forward(module, query, key, value, mask, **told)


def padded_mask(**asked: Any) -> Float[Tensor, "batch 1 new total"] | None:
    """The mask of a batch with padding. Hugging Face would look whether there is any, and wait."""
    return _additive(sdpa_mask(**dict(asked, allow_is_causal_skip=False)), asked["dtype"])


def unpadded_mask(**asked: Any) -> Float[Tensor, "batch 1 new total"] | None:
    """The mask of a batch without padding; None where the kernel needs none."""
    return _additive(sdpa_mask(**dict(asked, attention_mask=None)), asked["dtype"])


def _additive(
    mask: Bool[Tensor, "batch 1 new total"] | None, dtype: torch.dtype
) -> Float[Tensor, "batch 1 new total"] | None:
    """A mask as the kernels need it, which would otherwise convert it anew in every layer.

    Hidden scores get the dtype's lowest number, not -inf: a padding position sees nothing, and must
    not become NaN. Rows lie at multiples of 8, as the kernels on a GPU ask.
    """
    if mask is None:
        return None
    batch, total = mask.shape[0], mask.shape[-1]
    if mask.stride(0) == 0:
        mask = mask[:1]
    shape = (*mask.shape[:-1], total + -total % 8)
    scores = torch.full(shape, torch.finfo(dtype).min, dtype=dtype, device=mask.device)
    seen = scores[..., :total].masked_fill_(mask, 0.0)
    return seen.expand(batch, -1, -1, -1)


for name, mask_of in ((PADDED, padded_mask), (UNPADDED, unpadded_mask)):
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask_of)


@dataclass(frozen=True)
class Shortcut:
    """A component that can run the module that it wraps.

    Attributes:
        component: The component.
        forward: What it does then, in place of its own `forward`.
        skipped: The modules in it that are not called then: hook points, mostly.
        own_hooks: Torch's numbers of the hooks on them that are not the user's.
    """

    component: GeneralizedComponent
    forward: Callable[..., Any]
    skipped: tuple[nn.Module, ...] = ()
    own_hooks: frozenset[int] = frozenset()

    @property
    def is_free(self) -> bool:
        """Whether no hook watches what would be skipped."""
        for module in self.skipped:
            if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
                if module._forward_pre_hooks or module._backward_hooks:
                    return False
                if not self.own_hooks.issuperset(module._forward_hooks):
                    return False
        return True


@dataclass(frozen=True)
class Shortcuts:
    """What a model's components can leave out.

    Attributes:
        attention: Those of attention, which are taken all or none: they share masks.
        others: Those of norms and projections.
        configs: Hugging Face's configs that name the attention.
    """

    attention: tuple[Shortcut, ...] = ()
    others: tuple[Shortcut, ...] = ()
    configs: tuple[PretrainedConfig, ...] = ()


def candidates(model: TransformerBridge) -> Shortcuts:
    """The components that may be able to run what they wrap."""
    hf_model: Any = model.original_model
    attention, others = [], []
    for component in filter(_is_wrapped_whole, model.modules()):
        if isinstance(component, AttentionBridge):
            attention.append(Shortcut(component, partial(AttentionBridge.forward, component)))
        elif isinstance(component, NormalizationBridge | JointGateUpMLPBridge):
            others.append(Shortcut(component, partial(GeneralizedComponent.forward, component)))
    if not getattr(hf_model, "_supports_sdpa", False):
        attention = []
    named = (getattr(module, "config", None) for module in hf_model.modules())
    configs = {id(config): config for config in named if isinstance(config, PretrainedConfig)}
    return Shortcuts(tuple(attention), tuple(others), tuple(configs.values()))


def _is_wrapped_whole(component: nn.Module) -> bool:
    """Whether a module wraps another, which has its weights: those that a user may change.

    The bridge splits fused projections. The parts are mostly views of the whole.
    """
    wrapped = component._modules.get("_original_component")
    if wrapped is None:
        return False
    whole = {parameter.untyped_storage()._cdata for parameter in wrapped.parameters()}
    return all(part.untyped_storage()._cdata in whole for part in component.parameters())


@contextmanager
def taken(shortcuts: Shortcuts, *, padded: bool) -> Iterator[None]:
    """Inside, these shortcuts are taken.

    Args:
        shortcuts: The shortcuts.
        padded: Whether the batch has padding.
    """
    chosen = [*shortcuts.attention, *shortcuts.others]
    forwards = [shortcut.component.__dict__.get("forward") for shortcut in chosen]
    configs = shortcuts.configs if shortcuts.attention else ()
    names = [config._attn_implementation for config in configs]
    try:
        for shortcut in chosen:
            shortcut.component.__dict__["forward"] = shortcut.forward  # setting reaches inside
        for config in configs:
            config._attn_implementation = PADDED if padded else UNPADDED
        yield
    finally:
        for shortcut, forward in zip(chosen, forwards, strict=True):
            if forward is None:
                shortcut.component.__dict__.pop("forward", None)
            else:
                shortcut.component.__dict__["forward"] = forward
        for config, name in zip(configs, names, strict=True):
            config._attn_implementation = name


def free_of(shortcuts: Shortcuts) -> Shortcuts:
    """Those that no hook stands in the way of now."""
    all_free = all(shortcut.is_free for shortcut in shortcuts.attention)
    return Shortcuts(
        shortcuts.attention if all_free else (),
        tuple(shortcut for shortcut in shortcuts.others if shortcut.is_free),
        shortcuts.configs,
    )
