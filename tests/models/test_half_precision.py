"""bfloat16 and float16: what is computed in them is near float32's, and overflow is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mi_lens
from mi_lens.models.backends.lookup import available
from mi_lens.models.loading import load
from mi_lens.models.overflow import advice

PROMPTS = ["What is 12 * 7?", "So let me think about this."]
HOOK = "blocks.1.hook_resid_post"
# Relative distances of states from float32's; these random models are less smooth than real ones.
NEAR = {"bfloat16": 0.25, "float16": 0.03}


@pytest.fixture(params=available())
def backend(request):
    return request.param


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt2"])
def test_what_is_read_is_near_float32(architecture, dtype, backend, checkpoint):
    full = load(checkpoint(architecture), backend=backend, device="cpu")
    half = load(checkpoint(architecture), backend=backend, dtype=dtype, device="cpu")
    traces = mi_lens.generate(full, PROMPTS, max_new_tokens=24, progress=False)
    for whole, stored in zip(
        *(mi_lens.capture(m, traces, HOOK) for m in (full, half)), strict=True
    ):
        states, near = whole[HOOK], stored[HOOK]
        assert near.dtype == getattr(torch, dtype)
        assert (near.float() - states).norm() < NEAR[dtype] * states.norm()
        # MI is computed in float64 of the states as they are.
        mi = mi_lens.hsic_mi(near, near[-1])
        assert mi.dtype == torch.float64
        assert np.allclose(mi, mi_lens.hsic_mi(near.double(), near[-1].double()), rtol=1e-9)


@pytest.mark.parametrize("dtype", NEAR)
def test_everything_is_done_in_half_precision(dtype, backend, checkpoint, tmp_path):
    """Decoding in a batch, recycling, steering, suppression, and states on disk."""
    model = load(checkpoint("qwen2"), backend=backend, dtype=dtype, device="cpu")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    conditions = {
        "baseline": (),
        "recycled": mi_lens.Recycle(1, list(range(6, 200))),
        "steered": mi_lens.Steer(direction, HOOK, alpha=3.0, at="all", inside_think=False),
        "quiet": mi_lens.Suppress(list(range(6, 100))),
    }
    written = {}
    for name, condition in conditions.items():
        traces = mi_lens.generate(model, PROMPTS, condition, max_new_tokens=16, progress=False)
        written[name] = [trace.token_ids for trace in traces]
        paths = mi_lens.capture_into(model, traces, HOOK, tmp_path, batch_size=2)
        for path, held in zip(paths, mi_lens.capture(model, traces, HOOK), strict=True):
            stored = mi_lens.load_activations(path)[HOOK]
            assert stored.dtype == held[HOOK].dtype == getattr(torch, dtype)
            assert torch.equal(stored, held[HOOK])
    assert len({str(tokens) for tokens in written.values()}) == len(conditions)
    assert not {t for tokens in written["quiet"] for t in tokens} & set(range(6, 100))


@pytest.fixture
def overflowing(new_checkpoint):
    """A Llama whose states pass 65,504 from block 1 on; in bfloat16 they are finite."""
    folder = new_checkpoint("llama3")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_states_beyond_float16_are_refused(overflowing, backend, tmp_path):
    wide = load(overflowing, backend=backend, dtype="bfloat16", device="cpu")
    traces = mi_lens.generate(wide, PROMPTS, max_new_tokens=6, progress=False)
    (states, _) = mi_lens.capture(wide, traces, HOOK)
    assert states[HOOK].abs().max() > 65504
    half = load(overflowing, backend=backend, dtype="float16", device="cpu")
    remedy = r"load the model with dtype='bfloat16' or 'float32'"
    refused = rf"cannot (read|generate) with this model: .* not finite; .*{remedy}"
    with pytest.raises(ValueError, match=refused):
        mi_lens.generate(half, PROMPTS, max_new_tokens=6, progress=False)
    with pytest.raises(ValueError, match=refused):
        mi_lens.capture(half, traces, HOOK)
    half.abilities = None  # Few random tokens need not overflow where a long trace does.
    with pytest.raises(ValueError, match=rf"request 0: the logits at step 0 .*nan.*{remedy}"):
        mi_lens.generate(half, PROMPTS, max_new_tokens=6, progress=False)
    named = rf"^blocks\.1\.hook_resid_post: the state .* position \d+ holds (-?inf|nan).*{remedy}"
    with pytest.raises(ValueError, match=named):
        mi_lens.capture(half, traces, HOOK)
    with pytest.raises(ValueError, match=named):
        mi_lens.capture_into(half, traces, HOOK, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    problem = mi_lens.Problem("1", "12 * 7?", "84", "It is 84.", "test")
    with pytest.raises(ValueError, match=named):
        mi_lens.answer_state(half, problem, HOOK)
    # Below the overflow all is well: only what was asked for is judged.
    (states, _) = mi_lens.capture(half, traces, "blocks.0.hook_resid_post")
    assert states["blocks.0.hook_resid_post"].isfinite().all()


def test_the_step_that_is_not_finite_is_named(tiny_model):
    (trace,) = mi_lens.generate(tiny_model, PROMPTS[:1], max_new_tokens=6, progress=False)
    place = len(trace.prompt_ids)

    def spoil(states, hook):
        states[:, place:] = float("nan")
        return states

    with tiny_model.hooks(fwd_hooks=[(HOOK, spoil)]):
        with pytest.raises(
            ValueError, match=rf"{HOOK}: .* sequence 0 at position {place} holds nan"
        ):
            mi_lens.capture(tiny_model, [trace], HOOK, condition=None)
        (states,) = mi_lens.capture(tiny_model, [trace], HOOK, steps=[[0]], condition=None)
    assert states[HOOK].isfinite().all()


def test_float16_weights_are_read_as_they_are_and_run_wider(checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM

    stored = AutoModelForCausalLM.from_pretrained(checkpoint("llama3"), dtype=torch.float16)
    stored.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert load(tmp_path, device="cpu").cfg.dtype == torch.float32
    half = load(tmp_path, dtype="float16", device="cpu")
    assert {str(parameter.dtype) for parameter in half.parameters()} == {"torch.float16"}


def test_the_advice_is_of_the_dtype():
    assert "65504" in advice(torch.float16)
    assert "65504" not in advice(torch.bfloat16)
