"""What is TransformerBridge's own: it lives in Hugging Face's model, and half in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_lens.models.backends.lookup import get_backend
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.loading import load

bridge = get_backend("bridge")


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(6, 384, (2, 12), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, :7] = 0
    return tokens, mask


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_padding_spreads_no_nan(
    checkpoint: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    model = load(checkpoint(architecture), backend="bridge", dtype=dtype, device="cpu")
    tokens, mask = padded_batch()
    model.reset_hooks()  # as a user does between experiments
    assert bridge.forward(model, tokens, mask).isfinite().all()


def test_float64_is_close_to_exact_without_help(
    tiny_bridge: Any, checkpoint: Any, reference: Any, float64_throughout: Any
) -> None:
    tokens, mask = padded_batch()
    source = reference(checkpoint("qwen2"))
    with float64_throughout():
        expected = source(tokens[1:, 7:]).logits
    logits = bridge.forward(tiny_bridge, tokens, mask)[1:, 7:]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "place",
    [
        "hook_resid_pre",
        "hook_resid_mid",
        "hook_resid_post",
        "hook_attn_out",
        "hook_mlp_out",
        "attn.hook_q",
        "attn.hook_k",
        "attn.hook_v",
        "attn.hook_z",
        "attn.hook_attn_scores",
        "attn.hook_pattern",
        "mlp.hook_pre",
        "mlp.hook_post",
        "ln1.hook_scale",
        "ln2.hook_normalized",
    ],
)
def test_transformer_lens_names_work(tiny_bridge: Any, place: str) -> None:
    name = f"blocks.1.{place}"
    assert resolve_hook_names(tiny_bridge, name) == [name]


@pytest.mark.parametrize(
    "place", ["hook_resid_pre", "hook_resid_mid", "hook_attn_out", "mlp.hook_post"]
)
def test_names_mean_the_same_as_on_a_hooked_transformer(
    tiny_bridge: Any, tiny_model: Any, place: str
) -> None:
    tokens, mask = padded_batch()
    seen = []
    for model, backend in ((tiny_bridge, bridge), (tiny_model, get_backend("hooked"))):
        hook = (f"blocks.1.{place}", lambda state, hook: seen.append(state))
        with model.hooks(fwd_hooks=[hook]):
            backend.forward(model, tokens, mask)
    real = mask.bool()
    torch.testing.assert_close(seen[0][real], seen[1][real], rtol=0, atol=1e-4)
