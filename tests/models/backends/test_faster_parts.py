"""The exchanged parts of a HookedTransformer against TransformerLens's own, hook for hook."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.loading import load

pytestmark = pytest.mark.skipif(
    "hooked" not in available(), reason="this TransformerLens has no HookedTransformer"
)
EXACT = {"rtol": 0, "atol": 1e-10}
PADDING = (0, 4, 9)
LENGTH = 14


@pytest.fixture(scope="module")
def ours(architecture: str, checkpoint: Callable[[str], Any]) -> Any:
    return load(checkpoint(architecture), backend="hooked", dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def untouched(ours: Any) -> Any:
    return without_our_classes(ours)


def without_our_classes(ours: Any) -> Any:
    """TransformerLens's own classes with the same weights."""
    from transformer_lens import HookedTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(ours.cfg, move_to_device=False)
    model.load_state_dict(ours.state_dict(), assign=True)
    assert {type(part).__module__.split(".")[0] for part in model.modules()} <= {
        "transformer_lens",
        "torch",
    }
    model.tokenizer = ours.tokenizer
    return model.eval().requires_grad_(False)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(6, 384, (len(PADDING), LENGTH), generator=generator)
    mask = torch.stack([(torch.arange(LENGTH) >= padding).long() for padding in PADDING])
    return tokens, mask


def edits(place: str, value: Tensor) -> Tensor:
    """What a user may do to the second head, or to the state where there are no heads."""
    changed = value.clone()
    if place in ("attn.hook_pattern", "attn.hook_attn_scores"):
        changed[:, 1, :, 0] = 0.0
    elif value.ndim == 4:
        changed[:, :, 1] = 0.0
    else:
        changed[..., ::3] *= -0.5
    return changed


@pytest.mark.parametrize("padded", [False, True])
def test_every_hook_has_its_value(ours: Any, untouched: Any, padded: bool) -> None:
    tokens, mask = batch()
    given = {"attention_mask": mask} if padded else {}
    wanted_logits, wanted = untouched.run_with_cache(tokens, **given)
    logits, values = ours.run_with_cache(tokens, **given)
    torch.testing.assert_close(logits, wanted_logits, **EXACT)
    assert set(values) == set(wanted)
    assert set(values) == set(get_backend("hooked").hook_names(ours))
    for name in wanted:
        torch.testing.assert_close(values[name], wanted[name], **EXACT, msg=name)


@pytest.mark.parametrize("padded", [False, True])
def test_without_hooks_on_attention_the_logits_are_the_same(
    ours: Any, untouched: Any, padded: bool
) -> None:
    tokens, mask = batch()
    given = {"attention_mask": mask} if padded else {}
    seen: list[Tensor] = []
    hook = ("blocks.1.hook_resid_post", lambda state, hook: seen.append(state))
    wanted = untouched.run_with_hooks(tokens, fwd_hooks=[hook], **given)
    logits = ours.run_with_hooks(tokens, fwd_hooks=[hook], **given)
    real = mask.bool() if padded else torch.ones_like(mask).bool()
    torch.testing.assert_close(logits[real], wanted[real], **EXACT)
    torch.testing.assert_close(seen[1][real], seen[0][real], **EXACT)


def test_edits_have_their_effect(ours: Any, untouched: Any) -> None:
    tokens = batch()[0]
    plain = untouched(tokens)
    places = [name.split(".", 2)[2] for name in ours.hook_dict if name.startswith("blocks.1.")]
    fires = set(get_backend("hooked").hook_names(ours))
    tried = [place for place in places if f"blocks.1.{place}" in fires]
    assert {"attn.hook_z", "attn.hook_pattern", "attn.hook_q", "ln1.hook_scale"} <= set(tried)
    for place in tried:
        edit = (f"blocks.1.{place}", lambda value, hook, place=place: edits(place, value))
        wanted = untouched.run_with_hooks(tokens, fwd_hooks=[edit])
        logits = ours.run_with_hooks(tokens, fwd_hooks=[edit])
        torch.testing.assert_close(logits, wanted, **EXACT, msg=place)
        assert (logits - plain).abs().max() > 1e-4, place


@pytest.mark.parametrize("place", ["attn.hook_q", "attn.hook_v", "attn.hook_z", "hook_mlp_out"])
def test_edits_act_alike_with_a_cache(ours: Any, place: str) -> None:
    backend = get_backend("hooked")
    tokens, mask = batch()
    edit = (f"blocks.1.{place}", lambda value, hook: edits(place, value))
    with ours.hooks(fwd_hooks=[edit]):
        whole = backend.forward(ours, tokens, mask)
        cache = backend.new_cache(ours, len(tokens))
        backend.step(ours, tokens[:, :11], mask[:, :11], cache)
        for end in range(12, LENGTH + 1):
            logits = backend.step(ours, tokens[:, end - 1 : end], mask[:, :end], cache)
            torch.testing.assert_close(logits, whole[:, end - 1 : end], **EXACT)


@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gemma2"], indirect=True)
def test_pattern_of_a_step_is_a_row_of_the_whole_pattern(ours: Any) -> None:
    backend = get_backend("hooked")
    tokens, mask = batch()
    seen: list[Tensor] = []
    hook = ("blocks.2.attn.hook_pattern", lambda pattern, hook: seen.append(pattern))
    cache = backend.new_cache(ours, len(tokens))
    with ours.hooks(fwd_hooks=[hook]):
        backend.forward(ours, tokens, mask)
        backend.step(ours, tokens[:, :-1], mask[:, :-1], cache)
        backend.step(ours, tokens[:, -1:], mask, cache)
    torch.testing.assert_close(seen[2], seen[0][:, :, -1:], **EXACT)


@pytest.mark.parametrize("flag", ["use_attn_in", "use_split_qkv_input", "use_hook_mlp_in"])
def test_inputs_by_head_go_on_working(ours: Any, untouched: Any, flag: str) -> None:
    if flag == "use_attn_in" and ours.cfg.n_key_value_heads is not None:
        pytest.skip("TransformerLens does not offer it for grouped heads")
    tokens = batch()[0]
    for model in (ours, untouched):
        getattr(model, f"set_{flag}")(True)
    try:
        wanted_logits, wanted = untouched.run_with_cache(tokens)
        logits, values = ours.run_with_cache(tokens)
        backend = get_backend("hooked")
        cache = backend.new_cache(ours, len(tokens))
        steps = [
            backend.step(ours, tokens[:, part], torch.ones_like(tokens)[:, : part.stop], cache)
            for part in (slice(0, 9), slice(9, LENGTH))
        ]
    finally:
        for model in (ours, untouched):
            getattr(model, f"set_{flag}")(False)
    torch.testing.assert_close(logits, wanted_logits, **EXACT)
    torch.testing.assert_close(torch.cat(steps, dim=1), wanted_logits, **EXACT)
    assert set(values) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(values[name], wanted[name], **EXACT, msg=name)


def test_results_by_head_go_on_working(ours: Any, untouched: Any) -> None:
    tokens = batch()[0]
    for model in (ours, untouched):
        model.set_use_attn_result(True)
    name = "blocks.1.attn.hook_result"
    try:
        wanted = untouched.run_with_cache(tokens)[1][name]
        torch.testing.assert_close(ours.run_with_cache(tokens)[1][name], wanted, **EXACT)
    finally:
        for model in (ours, untouched):
            model.set_use_attn_result(False)


def test_transformer_lens_generates_as_before(ours: Any, untouched: Any) -> None:
    tokens = batch()[0]
    options = {"max_new_tokens": 5, "do_sample": False, "stop_at_eos": False, "verbose": False}
    expected = untouched.generate(tokens, **options)
    assert torch.equal(ours.generate(tokens, **options), expected)


def test_gradients_flow(ours: Any, untouched: Any) -> None:
    tokens = batch()[0]
    gradients = []
    for model in (ours, untouched):
        push = torch.zeros(model.cfg.d_model, dtype=torch.float64, requires_grad=True)
        hook = ("blocks.0.hook_resid_pre", lambda state, hook, push=push: state + push)
        model.run_with_hooks(tokens, fwd_hooks=[hook]).square().sum().backward()
        gradients.append(push.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ["qwen2"], indirect=True)
def test_a_model_that_transformer_lens_made_generates_too(ours: Any, untouched: Any) -> None:
    backend = get_backend("hooked")
    tokens, mask = batch()
    wanted = backend.forward(ours, tokens, mask)
    cache = backend.new_cache(untouched, len(tokens))
    logits = backend.step(untouched, tokens, mask, cache)
    torch.testing.assert_close(logits[mask.bool()], wanted[mask.bool()], **EXACT)


@pytest.mark.parametrize("architecture", ["qwen2"], indirect=True)
def test_other_architectures_are_refused(ours: Any) -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    shape = {"n_layers": 1, "d_model": 8, "d_head": 4, "n_ctx": 16, "d_vocab": 9, "act_fn": "relu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(
            HookedTransformerConfig(**shape, original_architecture="BloomForCausalLM")
        )
    with pytest.raises(ValueError, match=r"BloomForCausalLM.*Qwen2ForCausalLM.*mi_lens\.load"):
        get_backend("hooked").new_cache(model, 1)


@pytest.mark.parametrize("architecture", ["qwen2"], indirect=True)
def test_a_cache_may_be_filled_in_inference_mode_and_used_outside(ours: Any) -> None:
    backend = get_backend("hooked")
    tokens, mask = batch()
    cache = backend.new_cache(ours, len(tokens))
    with torch.inference_mode():
        backend.step(ours, tokens[:, :9], mask[:, :9], cache)
    logits = backend.step(ours, tokens[:, 9:], mask, cache)
    wanted = backend.forward(ours, tokens, mask)[:, 9:]
    real = mask[:, 9:].bool()
    torch.testing.assert_close(logits[real], wanted[real], **EXACT)


@pytest.mark.parametrize("architecture", ["qwen2"], indirect=True)
def test_a_cache_outgrows_its_room(ours: Any) -> None:
    from mi_lens.models.backends.cache import ROOM, LayerCache
    from mi_lens.models.backends.positions import Positions

    padding = (0, 3)
    cache = LayerCache()
    keys = torch.randn(2, 2 * ROOM + 5, 3, 4)
    values = torch.randn_like(keys)
    for start, end in ((0, 7), (7, 8), (8, ROOM + 9), (ROOM + 9, 2 * ROOM + 5)):
        positions = Positions(padding, start, end - start, "cpu")
        held = cache.append(keys[:, start:end], values[:, start:end], positions)
        in_columns = cache.in_columns(positions)
        for slots, columns, given in zip(held, in_columns, (keys, values), strict=True):
            for row, first in enumerate(padding):
                real = given[row, first:end].transpose(0, 1)
                assert torch.equal(slots[row, :, : end - first], real)
                assert torch.equal(columns[row, :, first:end], real)


def test_bfloat16_is_no_worse_than_before(
    ours: Any, architecture: str, checkpoint: Callable[[str], Any]
) -> None:
    backend = get_backend("hooked")
    tokens, mask = batch()
    model = load(checkpoint(architecture), backend="hooked", dtype="bfloat16", device="cpu")
    usual = without_our_classes(model)(tokens, attention_mask=mask)[:, -1:]
    cache = backend.new_cache(model, len(tokens))
    backend.step(model, tokens[:, :-1], mask[:, :-1], cache)
    logits = backend.step(model, tokens[:, -1:], mask, cache)
    assert logits.dtype == torch.bfloat16
    exact = backend.forward(ours, tokens, mask, 1)
    assert (logits - exact).std() < 1.5 * (usual - exact).std()


class Nothing(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("architecture", ["qwen2"], indirect=True)
def test_a_part_may_be_replaced(ours: Any) -> None:
    tokens = batch()[0]
    without = ("blocks.1.hook_mlp_out", lambda out, hook: torch.zeros_like(out))
    wanted = ours.run_with_hooks(tokens, fwd_hooks=[without])
    model = copy.deepcopy(ours)
    model.blocks[1].mlp = Nothing()
    torch.testing.assert_close(model(tokens), wanted, **EXACT)


@pytest.mark.parametrize("architecture", ["qwen2"], indirect=True)
def test_a_fused_norm_in_bfloat16_is_that_of_its_hooks_but_for_rounding(
    ours: Any, architecture: str, checkpoint: Callable[[str], Any]
) -> None:
    model = load(checkpoint(architecture), backend="hooked", dtype="bfloat16", device="cpu")
    norm = model.blocks[0].ln1
    generator = torch.Generator().manual_seed(0)
    states = (torch.randn(40_000, 32, generator=generator) * 3).bfloat16()
    fused = norm(states)
    norm.hook_scale.add_hook(lambda scale, hook: None)
    watched = norm(states)
    differing = (fused != watched).float().mean().item()
    assert differing < 2e-5
    torch.testing.assert_close(fused, watched, rtol=2**-7, atol=0)  # By one step of bfloat16.
