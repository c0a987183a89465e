"""TransformerLens's attention with the same hooks and the same values, but faster in decoding.

These are the differences:
- Each key is rotated once and cached after its rotation.
- A cache grows in place.
- The query heads of a group share their key head without copying it.
- Masks and rotation angles are computed once per step, not once per layer.
- Scores and pattern are computed only if they have a hook or a softcap. Otherwise the fused kernel
  computes the heads' outputs.

With a cache, `hook_rot_k` sees only the new positions, like all hooks. If a call brings a cache of
TransformerLens's own class, as `generate` does, TransformerLens's own attention runs.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformer_lens.components.abstract_attention import AbstractAttention
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.utilities.activation_functions import apply_softcap, softcap_enabled

from mi_lens.models.backends.block import is_watched
from mi_lens.models.backends.cache import LayerCache

Angles = tuple[Float[Tensor, "rows new 1 d_head"], Float[Tensor, "rows new 1 d_head"]]


@dataclass
class Positions:
    """The new positions of a step, which are the same for all its layers.

    Attributes:
        mask: The mask of past and new positions, 0 on padding; None if there is no padding.
        past: Number of positions before the new ones.
        new: Number of new positions.
        device: The model's device.
    """

    mask: Int[Tensor, "batch total"] | None
    past: int
    new: int
    device: torch.device
    _seen: dict[int | None, Bool[Tensor, "rows 1 new total"]] = field(default_factory=dict)
    _angles: dict[float, Angles] = field(default_factory=dict)

    @cached_property
    def padding(self) -> Int[Tensor, "batch total"] | None:
        """The mask; None if no row has padding."""
        return None if self.mask is None or bool(self.mask.all()) else self.mask

    def sees_all(self, window: int | None) -> bool:
        """Whether every new position sees every position up to itself."""
        total = self.past + self.new
        return self.padding is None and (window is None or total <= window)

    def seen(self, window: int | None) -> Bool[Tensor, "rows 1 new total"]:
        """Which positions each new one sees: those up to itself, unpadded and in the window."""
        if window not in self._seen:
            total = self.past + self.new
            seen = torch.ones(self.new, total, dtype=torch.bool, device=self.device)
            seen = seen.tril(self.past)[None, None]
            if window is not None:
                seen = seen.triu(self.past - window + 1)
            if self.padding is not None:
                seen = seen & self.padding[:, None, None].bool()
            self._seen[window] = seen
        return self._seen[window]

    def angles(self, attention: AbstractAttention) -> Angles:
        """Cosines and sines of the new positions; the sines have the signs that `rotate` needs."""
        base = attention._rotary_base()  # Gemma 3's layers with a window have another.
        if base not in self._angles:
            total = self.past + self.new
            if min(total, attention.cfg.n_ctx) > len(attention.rotary_cos):
                size = max(total, 2 * len(attention.rotary_cos))
                attention._extend_rotary_embeddings(min(size, attention.cfg.n_ctx))
            if self.padding is None:
                index = (None, slice(self.past, total), None)
            else:
                index = ((self.padding.cumsum(dim=1) - 1).clamp(min=0)[:, self.past :, None],)
            sine, half = attention.rotary_sin[index], attention.rotary_sin.shape[1] // 2
            signed_sine = torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
            self._angles[base] = attention.rotary_cos[index], signed_sine
        return self._angles[base]


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
            step = LayerStep(Positions(attention_mask, 0, new, device), None)
        q, k, v = self.calculate_qkv_matrices(query_input, key_input, value_input)
        if self.q_norm is not None and self.k_norm is not None and not self.cfg.use_qk_norm:
            # OLMo 2 normalises the queries of all heads together.
            q = self.q_norm(q.flatten(2)).view_as(q)
            k = self.k_norm(k.flatten(2)).view_as(k)
        if self.cfg.positional_embedding_type == "rotary":
            angles = step.positions.angles(self)
            q = self.hook_rot_q(rotate(q, angles))
            k = self.hook_rot_k(rotate(k, angles))
        if step.cache is None:
            keys, values = k.transpose(1, 2), v.transpose(1, 2)
        else:
            keys, values = step.cache.append(k, v)
        needs_scores = softcap_enabled(self.cfg.attn_scores_soft_cap) or is_watched(
            self.hook_attn_scores, self.hook_pattern
        )
        attend = self._attend_with_scores if needs_scores else self._attend_fused
        return self._project_out(self.hook_z(attend(q, keys, values, step.positions)))

    def calculate_qkv_matrices(self, query_input: Tensor, key_input: Tensor, value_input: Tensor):
        """Queries, keys and values, `[batch, new, heads, d_head]` each."""
        if query_input.ndim == 4:  # each head has its own input
            return super().calculate_qkv_matrices(query_input, key_input, value_input)
        q = self.hook_q(project(query_input, self.W_Q, self.b_Q))
        key_weights, value_weights = self._weights_of_keys_and_values()
        k = self.hook_k(project(key_input, *key_weights))
        v = self.hook_v(project(value_input, *value_weights))
        if self.cfg.use_qk_norm and self.q_norm is not None and self.k_norm is not None:
            q, k = self._apply_qk_norm(q, self.q_norm), self._apply_qk_norm(k, self.k_norm)
        return q, k, v

    def _weights_of_keys_and_values(self) -> Any:
        return (self.W_K, self.b_K), (self.W_V, self.b_V)

    @property
    def _window(self) -> int | None:
        return self.cfg.window_size if self.attn_type == "local" else None

    def _attend_fused(
        self,
        q: Float[Tensor, "batch new heads d_head"],
        keys: Float[Tensor, "batch kv_heads total d_head"],
        values: Float[Tensor, "batch kv_heads total d_head"],
        positions: Positions,
    ) -> Float[Tensor, "batch new heads d_head"]:
        """The output of each head, computed without scores or pattern in memory."""
        batch, new, heads, d_head = q.shape
        sees_all = positions.sees_all(self._window)
        mask = None if sees_all and new in (1, keys.shape[2]) else positions.seen(self._window)
        scale = 1 / self.attn_scale
        if new == 1:  # the query heads of a group become several queries to one key head
            groups = q.reshape(batch, keys.shape[1], -1, d_head)
            z = functional.scaled_dot_product_attention(
                groups, keys, values, attn_mask=mask, scale=scale
            )
            return z.reshape(batch, 1, heads, d_head)
        if mask is not None:
            # Padding sees nothing, which gives NaN in some kernels: let it see itself.
            mask = mask | torch.ones_like(mask[:1]).triu(positions.past).tril(positions.past)
        return functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=True,
        ).transpose(1, 2)

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
        scores = scores.masked_fill(~positions.seen(self._window), -torch.inf)
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
        return functional.linear(z.flatten(2), self.W_O.permute(2, 0, 1).flatten(1), self.b_O)


def project(
    x: Float[Tensor, "batch new d_model"],
    weight: Float[Tensor, "heads d_model d_head"],
    bias: Float[Tensor, "heads d_head"],
) -> Float[Tensor, "batch new heads d_head"]:
    """A projection to heads; weights in the layout that `build` gives them are not copied."""
    flat = functional.linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten())
    return flat.view(*x.shape[:2], *bias.shape)


class FastAttention(_Fast, Attention):
    """Attention with as many key heads as query heads."""


class FastGroupedAttention(_Fast, GroupedQueryAttention):
    """Attention with groups of query heads that share one key head."""

    def _weights_of_keys_and_values(self) -> Any:
        if self.cfg.ungroup_grouped_query_attention:
            return super()._weights_of_keys_and_values()
        return (self._W_K, self._b_K), (self._W_V, self._b_V)
