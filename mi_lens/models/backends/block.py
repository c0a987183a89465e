"""Faster versions of TransformerLens's block, gated MLP, RMS norm and hook points.

They run fewer operations between the matrix products. In a model as narrow as the built-in
reasoner, a step takes as long as it takes to start its few hundred small operations.
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.transformer_block import TransformerBlock
from transformer_lens.components.unembed import Unembed
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from mi_lens.models.backends.fused import Joint, linear


def is_watched(*points: HookPoint) -> bool:
    """Whether a hook is attached at one of these points."""
    return any(point._forward_hooks or point._backward_hooks for point in points)


class FastHookPoint(HookPoint):
    """A hook point that takes almost no time while no hook is attached.

    Shape checkers pass it by: it hands on what it gets, some 15 times per layer and step.
    """

    @no_type_check
    def __call__(self, x: Tensor) -> Tensor:
        """As in TransformerLens."""
        silent = not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks)
        return x if silent else super().__call__(x)


class FastBlock(TransformerBlock):
    """A block that normalises the attention's input once; TransformerLens does it three times.

    Hooks in that norm therefore fire once, and the queries, keys and values all read their result.
    """

    def forward(
        self,
        resid_pre: Float[Tensor, "batch new d_model"],
        shortformer_pos_embed: Tensor | None = None,
        past_kv_cache_entry: Any = None,
        attention_mask: Int[Tensor, "batch total"] | None = None,
    ) -> Float[Tensor, "batch new d_model"]:
        """As in TransformerLens."""
        if self.splits_inputs:
            return super().forward(
                resid_pre, shortformer_pos_embed, past_kv_cache_entry, attention_mask
            )
        resid_pre = self.hook_resid_pre(resid_pre)
        return self.hook_resid_post(self.inside(resid_pre, past_kv_cache_entry, attention_mask))

    @property
    def splits_inputs(self) -> bool:
        """Whether attention heads or the MLP have inputs of their own."""
        cfg = self.cfg
        return cfg.use_attn_in or cfg.use_split_qkv_input or cfg.use_hook_mlp_in

    def inside(
        self,
        resid_pre: Float[Tensor, "batch new d_model"],
        past_kv_cache_entry: Any = None,
        attention_mask: Int[Tensor, "batch total"] | None = None,
    ) -> Float[Tensor, "batch new d_model"]:
        """What is between `hook_resid_pre` and `hook_resid_post`."""
        # OLMo 2 normalises what attention and MLP give, not what they get; see `apply_mlp` for ln2.
        norms_after = self.cfg.original_architecture in POST_NORM_ARCHITECTURES
        normed = resid_pre if norms_after else self.ln1(resid_pre)
        attn_out = self.attn(
            normed, normed, normed, past_kv_cache_entry, attention_mask=attention_mask
        )
        if self.cfg.use_normalization_before_and_after:
            attn_out = self.ln1_post(attn_out)
        if norms_after:
            attn_out = self.ln1(attn_out)
        resid_mid = self.hook_resid_mid(resid_pre + self.hook_attn_out(attn_out))
        mlp_in = resid_mid if norms_after else self.ln2(resid_mid)
        return resid_mid + self.apply_mlp(mlp_in)


class FastGatedMLP(GatedMLP):
    """A gated MLP whose two products of its input are one."""

    joint: Joint | None = None

    def forward(self, x: Float[Tensor, "batch new d_model"]) -> Float[Tensor, "batch new d_model"]:
        """As in TransformerLens."""
        if self.cfg.is_layer_norm_activation():
            return super().forward(x)
        product = None if self.joint is None else self.joint.product(x)
        if product is None:
            gate, factor = linear(x, self.W_gate.T), linear(x, self.W_in.T)
        else:
            gate, factor = product.chunk(2, dim=-1)
        gated = self.act_fn(self.hook_pre(gate)) * self.hook_pre_linear(factor)
        post = self.hook_post(gated + self.b_in)
        return linear(post, self.W_out.T, self.b_out)


class FastUnembed(Unembed):
    """An unembedding that does not copy the weights, whatever their layout."""

    def forward(
        self, residual: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """As in TransformerLens."""
        return self.hook_out(linear(self.hook_in(residual), self.W_U.T, self.b_U))


class FastRMSNorm(RMSNorm):
    """An RMS norm that is one fused operation, or two, unless a hook watches its parts.

    Below float32 the normalised state is rounded before it is multiplied by the weights, as in
    TransformerLens and in Hugging Face. The fused operation multiplies by the reciprocal of the
    scale where TransformerLens divides by it; after rounding, some two numbers in a million differ.
    """

    def forward(self, x: Float[Tensor, "*batch length"]) -> Float[Tensor, "*batch length"]:
        """As in TransformerLens."""
        if is_watched(self.hook_scale, self.hook_normalized):
            return super().forward(x)
        if self.w.dtype in (torch.float32, torch.float64):
            return functional.rms_norm(x, (self.length,), self.w, self.eps)
        return functional.rms_norm(x, (self.length,), None, self.eps) * self.w
