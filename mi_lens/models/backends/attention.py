"""TransformerLens's attention with the same hooks and the same values, but faster in decoding.

These are the differences:
- Each key is rotated once and cached after its rotation.
- A cache grows in place.
- Queries, keys and values come from one product, and queries and keys are rotated together.
- The query heads of a group share their key head without copying it in single steps.
- Masks and rotation angles are computed once per step, not once per layer.
- Scores and pattern are computed only if they have a hook or a softcap. Otherwise the fused kernel
  computes the heads' outputs.

With a cache, `hook_rot_k` sees only the new positions, like all hooks. If a call brings a cache of
TransformerLens's own class, as `generate` does, TransformerLens's own attention runs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import CausalBias, causal_lower_right
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformer_lens.components.abstract_attention import AbstractAttention
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.utilities.activation_functions import apply_softcap, softcap_enabled

from mi_lens.models.backends.block import is_watched
from mi_lens.models.backends.cache import LayerCache
from mi_lens.models.backends.fused import Joint, linear
from mi_lens.models.backends.positions import Angles, Positions, padding_of


@dataclass
class LayerStep:
    """A step at one layer. The block gets it instead of TransformerLens's cache entry.

    Attributes:
        positions: The new positions.
        cache: The layer's cache; None for a pass that keeps no cache.
    """

    positions: Positions
    cache: LayerCache | None


def rotate(x: Float[Tensor, "batch new heads d_head"], angles: Angles) -> Tensor:
    """Rotate queries or keys by the angles of their positions.

    The i-th element of the first half is rotated with the i-th element of the second half.
    """
    cosine, signed_sine = angles
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), signed_sine)


class _Fast(AbstractAttention):
    """The fast forward pass; a subclass takes the weights from a class of TransformerLens."""

    joint: Joint | None = None

    def forward(
        self,
        query_input: Float[Tensor, "batch new *heads d_model"],
        key_input: Float[Tensor, "batch new *kv_heads d_model"],
        value_input: Float[Tensor, "batch new *kv_heads d_model"],
        past_kv_cache_entry: Any = None,
        additive_attention_mask: Tensor | None = None,
        attention_mask: Int[Tensor, "batch total"] | None = None,
        position_bias: Tensor | None = None,
    ) -> Float[Tensor, "batch new d_model"]:
        """As in TransformerLens.

        The cache entry may also be a `LayerStep`; its positions then hold the mask.
        """
        step = past_kv_cache_entry
        if isinstance(step, TransformerLensKeyValueCacheEntry):
            return super().forward(
                query_input, key_input, value_input, step, attention_mask=attention_mask
            )
        if step is None:
            new, device = query_input.shape[1], query_input.device
            step = LayerStep(Positions(padding_of(attention_mask), 0, new, device), None)
        positions, cache = step.positions, step.cache
        q, k, v = self._heads(query_input, key_input, value_input, positions)
        if cache is None:
            keys, values = k.transpose(1, 2), v.transpose(1, 2)
        else:
            keys, values = cache.append(k, v, positions)
        scores_needed = softcap_enabled(self.cfg.attn_scores_soft_cap) or is_watched(
            self.hook_attn_scores, self.hook_pattern
        )
        if not scores_needed:
            z = self._attend_fused(q, keys, values, positions, slots=cache is not None)
        else:
            if cache is not None:
                keys, values = cache.in_columns(positions)
            z = self._attend_with_scores(q, keys, values, positions)
        return self._project_out(self.hook_z(z))

    def _heads(
        self, query_input: Tensor, key_input: Tensor, value_input: Tensor, positions: Positions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated if the model rotates them, and values; for each head."""
        rotary = self.cfg.positional_embedding_type == "rotary"
        plain = self.q_norm is None and not is_watched(self.hook_q, self.hook_k)
        product = self._product(query_input, key_input, value_input) if rotary and plain else None
        if product is not None:
            n_queries, n_keys, n_values = self._head_counts(product)
            q_and_k, v = product.split((n_queries + n_keys, n_values), dim=2)
            rotated = rotate(q_and_k, positions.angles(self))
            q, k = rotated.split((n_queries, n_keys), dim=2)
            return self.hook_rot_q(q), self.hook_rot_k(k), self.hook_v(v)
        q, k, v = self.calculate_qkv_matrices(query_input, key_input, value_input)
        if self.q_norm is not None and self.k_norm is not None and not self.cfg.use_qk_norm:
            # OLMo 2 normalises the queries of all heads together.
            q = self.q_norm(q.flatten(2)).view_as(q)
            k = self.k_norm(k.flatten(2)).view_as(k)
        if rotary:
            angles = positions.angles(self)
            q = self.hook_rot_q(rotate(q, angles))
            k = self.hook_rot_k(rotate(k, angles))
        return q, k, v

    def calculate_qkv_matrices(self, query_input: Tensor, key_input: Tensor, value_input: Tensor):
        """Queries, keys and values, `[batch, new, heads, d_head]` each."""
        if query_input.ndim == 4:  # each head has its own input
            return super().calculate_qkv_matrices(query_input, key_input, value_input)
        product = self._product(query_input, key_input, value_input)
        if product is None:
            key_weights, value_weights = self._weights_of_keys_and_values()
            q = project(query_input, self.W_Q, self.b_Q)
            k, v = project(key_input, *key_weights), project(value_input, *value_weights)
        else:
            q, k, v = product.split(self._head_counts(product), dim=2)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        if self.cfg.use_qk_norm and self.q_norm is not None and self.k_norm is not None:
            q, k = self._apply_qk_norm(q, self.q_norm), self._apply_qk_norm(k, self.k_norm)
        return q, k, v

    def _product(
        self, query_input: Tensor, key_input: Tensor, value_input: Tensor
    ) -> Float[Tensor, "batch new all_heads d_head"] | None:
        """Queries, keys and values of one input by one product; None where it takes several."""
        one_input = query_input is key_input and key_input is value_input and query_input.ndim == 3
        if self.joint is None or not one_input or self.cfg.ungroup_grouped_query_attention:
            return None
        product = self.joint.product(query_input)
        return None if product is None else product.unflatten(-1, (-1, self.cfg.d_head))

    def _head_counts(
        self, product: Float[Tensor, "batch new all_heads d_head"]
    ) -> tuple[int, int, int]:
        """How many heads of queries, keys and values stand in a product."""
        n_keys = (product.shape[2] - self.cfg.n_heads) // 2
        return self.cfg.n_heads, n_keys, n_keys

    def _weights_of_keys_and_values(self) -> Any:
        return (self.W_K, self.b_K), (self.W_V, self.b_V)

    @property
    def window(self) -> int | None:
        """How many positions a position sees, itself included; None for all."""
        return self.cfg.window_size if self.attn_type == "local" else None

    def _attend_fused(
        self,
        q: Float[Tensor, "batch new heads d_head"],
        keys: Float[Tensor, "batch kv_heads total d_head"],
        values: Float[Tensor, "batch kv_heads total d_head"],
        positions: Positions,
        *,
        slots: bool,
    ) -> Float[Tensor, "batch new heads d_head"]:
        """The output of each head, computed without scores or pattern in memory."""
        batch, new, heads, d_head = q.shape
        scale, window = 1 / self.attn_scale, self.window
        sees_all = positions.sees_all(window)
        if new == 1:  # the query heads of a group become several queries to one key head
            bias = None if sees_all else positions.bias(window, slots, q.dtype)
            groups = q.reshape(batch, keys.shape[1], -1, d_head)
            z = functional.scaled_dot_product_attention(
                groups, keys, values, attn_mask=bias, scale=scale
            )
            return z.reshape(batch, 1, heads, d_head)
        square = sees_all and new == keys.shape[2]
        if square:
            bias = None
        elif sees_all and q.device.type != "cpu":
            bias = causal_lower_right(new, keys.shape[2])
        else:
            bias = positions.bias(window, slots, q.dtype)
        maskless = bias is None or isinstance(bias, CausalBias)
        flash = maskless and q.dtype in (torch.float16, torch.bfloat16)
        if q.device.type != "cpu" and not flash and keys.shape[1] != heads:
            # On an accelerator the only kernel for grouped heads here would hold all scores.
            keys, values = (
                part.repeat_interleave(heads // part.shape[1], dim=1) for part in (keys, values)
            )
        z = functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            keys,
            values,
            attn_mask=bias,
            is_causal=square,
            scale=scale,
            enable_gqa=keys.shape[1] != heads,
        )
        return z.transpose(1, 2)

    def _attend_with_scores(
        self,
        q: Float[Tensor, "batch new heads d_head"],
        keys: Float[Tensor, "batch kv_heads total d_head"],
        values: Float[Tensor, "batch kv_heads total d_head"],
        positions: Positions,
    ) -> Float[Tensor, "batch new heads d_head"]:
        """The output of each head, computed from scores and pattern, whose hooks fire."""
        batch, new, heads, d_head = q.shape
        groups = q.transpose(1, 2).reshape(batch, keys.shape[1], -1, d_head)
        scores = (groups @ keys.transpose(2, 3)).view(batch, heads, new, -1) / self.attn_scale
        scores = apply_softcap(scores, self.cfg.attn_scores_soft_cap)
        scores = scores.masked_fill(~positions.seen(self.window), -torch.inf)
        # A padding position at the start of a row sees nothing, and its pattern would be NaN.
        pattern = self.hook_attn_scores(scores).softmax(dim=-1).nan_to_num(nan=0.0)
        pattern = self.hook_pattern(pattern).to(values.dtype)
        z = pattern.reshape(batch, keys.shape[1], -1, keys.shape[2]) @ values
        return z.view(batch, heads, new, d_head).transpose(1, 2)

    def _project_out(
        self, z: Float[Tensor, "batch new heads d_head"]
    ) -> Float[Tensor, "batch new d_model"]:
        if self.cfg.use_attn_result:
            result = torch.einsum("bphd,hdm->bphm", z, self.W_O)
            return self.hook_result(result).sum(dim=2) + self.b_O
        return linear(z.flatten(2), self.W_O.permute(2, 0, 1).flatten(1), self.b_O)


def project(
    x: Float[Tensor, "batch new d_model"],
    weight: Float[Tensor, "heads d_model d_head"],
    bias: Float[Tensor, "heads d_head"],
) -> Float[Tensor, "batch new heads d_head"]:
    """A projection to heads; weights in the layout that `build` gives them are not copied."""
    flat = linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
    return flat.view(*x.shape[:2], *bias.shape)


class FastAttention(_Fast, Attention):
    """Attention with as many key heads as query heads."""


class FastGroupedAttention(_Fast, GroupedQueryAttention):
    """Attention with groups of query heads that share one key head."""

    def _weights_of_keys_and_values(self) -> Any:
        if self.cfg.ungroup_grouped_query_attention:
            return super()._weights_of_keys_and_values()
        return (self._W_K, self._b_K), (self._W_V, self._b_V)
