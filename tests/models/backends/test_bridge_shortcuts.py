"""A bridge runs Hugging Face's own modules, except where a hook watches what they would hide."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mi_lens.models.backends import bridge
from mi_lens.models.backends.bridge_shortcuts import Shortcuts, attend, free_of
from tests.conftest import ARCHITECTURES, BRIDGED

# Softcaps and sinks are not in PyTorch's attention kernels.
STEP_BY_STEP = {"gemma2", "gpt-oss"}
CLOSE: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}


def hugging_face(folder: Path, attention: str, dtype: torch.dtype = torch.float32) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def bridge_of(checkpoint: Callable[[str], Path]) -> Callable[..., Any]:
    """`bridge_of("qwen2")` is a bridge without a tokenizer."""
    built: dict[Any, Any] = {}

    def model(architecture: str, dtype: torch.dtype = torch.float32) -> Any:
        if (architecture, dtype) not in built:
            source = hugging_face(checkpoint(architecture), "eager", dtype)
            built[architecture, dtype] = bridge.build(source, None)
        return built[architecture, dtype]

    return model


def batch() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(6, 384, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    return tokens, mask


def seen_at(model: Any, names: list[str]) -> dict[str, list[Tensor]]:
    """What hooks of these names see of the batch, and as "logits" what comes out."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> tuple[str, Callable[..., None]]:
        return name, lambda value, hook: seen.setdefault(name, []).append(value.clone())

    with model.hooks(fwd_hooks=[note(name) for name in names]) if names else nullcontext():
        seen["logits"] = [bridge.forward(model, *batch())]
    return seen


def step_by_step(model: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(model, "_shortcuts", Shortcuts())


def skipped_names(model: Any) -> set[str]:
    shortcuts = [*model._shortcuts.attention, *model._shortcuts.others]
    skipped = {module for shortcut in shortcuts for module in shortcut.skipped}
    return {name for name, point in model.hook_dict.items() if point in skipped}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES | BRIDGED))
def test_without_hooks_the_logits_are_hugging_faces(
    checkpoint: Callable[[str], Path], bridge_of: Any, architecture: str
) -> None:
    model = bridge_of(architecture)
    kind = "eager" if architecture in STEP_BY_STEP else "sdpa"
    assert bool(model._shortcuts.attention) == (kind == "sdpa")
    source = hugging_face(checkpoint(architecture), kind)
    tokens, mask = batch()
    whole = bridge.forward(model, tokens[:1], mask[:1])
    assert torch.equal(whole, source(tokens[:1]).logits)
    padded = bridge.forward(model, tokens, mask)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    expected = source(tokens, attention_mask=mask, position_ids=positions).logits
    assert torch.equal(padded[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES | BRIDGED))
def test_hooks_see_the_same_with_shortcuts_and_without(
    bridge_of: Any, monkeypatch: Any, architecture: str
) -> None:
    model = bridge_of(architecture)
    names = [name for name in bridge.hook_names(model) if name not in skipped_names(model)]
    with_shortcuts = seen_at(model, names)
    step_by_step(model, monkeypatch)
    without = seen_at(model, names)
    assert with_shortcuts.keys() == without.keys()
    real = batch()[1].bool()
    for name, values in without.items():
        for value, got in zip(values, with_shortcuts[name], strict=True):
            where = real if value.shape[:2] == real.shape else ...
            torch.testing.assert_close(
                got[where], value[where], msg=f"{name}: {{}}".format, **CLOSE
            )


@pytest.mark.parametrize("architecture", ["qwen3", "phi3", "gpt2"])
def test_a_hook_at_a_skipped_point_sees_the_bridges_own_step(
    bridge_of: Any, monkeypatch: Any, architecture: str
) -> None:
    model = bridge_of(architecture)
    fast = seen_at(model, [])["logits"][0]
    skipped = skipped_names(model) & set(bridge.hook_names(model))
    assert {f"blocks.1.{place}" for place in ("attn.hook_pattern", "ln2.hook_scale")} <= skipped
    names = [name for name in skipped if name.startswith("blocks.1.")]
    watched = {name: seen_at(model, [name])[name] for name in names}
    assert torch.equal(seen_at(model, [])["logits"][0], fast)  # and is fast again afterwards
    step_by_step(model, monkeypatch)
    for name in names:
        for value, got in zip(seen_at(model, [name])[name], watched[name], strict=True):
            torch.testing.assert_close(got, value, **CLOSE)


@pytest.mark.parametrize("place", ["hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q"])
def test_an_edit_counts_with_shortcuts_and_without(
    bridge_of: Any, monkeypatch: Any, place: str
) -> None:
    model = bridge_of("qwen2")
    before = bridge.forward(model, *batch())
    with model.hooks(fwd_hooks=[(f"blocks.1.attn.{place}", lambda value, hook: value / 2)]):
        edited = bridge.forward(model, *batch())
        step_by_step(model, monkeypatch)
        expected = bridge.forward(model, *batch())
    real = batch()[1].bool()
    torch.testing.assert_close(edited[real], expected[real], **CLOSE)
    assert (edited - before)[real].abs().max() > 0.01


def test_a_hook_of_torch_on_a_skipped_module_fires(bridge_of: Any) -> None:
    attention = bridge_of("gpt2").blocks[1].attn
    outputs: list[Tensor] = []
    handle = attention.q.register_forward_hook(lambda *call: outputs.append(call[-1]))
    bridge.forward(bridge_of("gpt2"), *batch())
    handle.remove()
    bridge.forward(bridge_of("gpt2"), *batch())
    assert [output.shape for output in outputs] == [(2, 12, 32)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_bridges_own_hooks_do_not_stand_in_the_way(bridge_of: Any, dtype: torch.dtype) -> None:
    model = bridge_of("olmo2", dtype)
    assert any(shortcut.own_hooks for shortcut in model._shortcuts.attention)
    assert free_of(model._shortcuts) == model._shortcuts
    names = {torch.float64: "hook_attn_scores", torch.bfloat16: "hook_rot_q"}
    with model.hooks(fwd_hooks=[(f"blocks.1.attn.{names[dtype]}", lambda value, hook: None)]):
        assert not free_of(model._shortcuts).attention


def test_nothing_is_left_of_a_pass_that_fails(bridge_of: Any) -> None:
    model = bridge_of("qwen2")

    def fail(value: Tensor, hook: Any) -> None:
        assert model.original_model.config._attn_implementation == "mi_lens_padded"
        raise KeyError

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", fail)]), pytest.raises(KeyError):
        bridge.forward(model, *batch())
    assert model.original_model.config._attn_implementation == "eager"
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_what_the_kernel_would_leave_out_is_refused() -> None:
    states = torch.randn(1, 2, 3, 8)
    told = {"scaling": 0.5, "dropout": 0.0, "sliding_window": 4, "use_cache": True, "softcap": None}
    attended, _ = attend(torch.nn.Identity(), states, states, states, None, **told)
    assert attended.shape == (1, 3, 2, 8)
    with pytest.raises(NotImplementedError, match=r"no \['s_aux', 'softcap'\]"):
        attend(torch.nn.Identity(), states, states, states, None, softcap=5.0, s_aux=states)
