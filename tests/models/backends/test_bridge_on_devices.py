"""A bridge on pretend GPUs: what a step of decoding takes there, and layers on two of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

import mi_lens
from mi_lens.models import self_check
from mi_lens.models.backends import bridge
from mi_lens.models.backends.bridge_blocks import layers_of
from tests.pretend_device import Counts, Devices, pretend_devices

pytestmark = pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has its own CUDA")

PROMPT, STEPS = 9, 3


@pytest.fixture
def devices() -> Iterator[Devices]:
    with pretend_devices() as made:
        yield made


def read(folder: Path, attention: str, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False)


def batch(padding: list[int]) -> tuple[Tensor, Tensor]:
    """Tokens on the device, and their mask on the host."""
    size = len(padding), PROMPT + STEPS
    tokens = torch.randint(6, 384, size, generator=torch.Generator().manual_seed(0))
    mask = torch.stack([(torch.arange(size[1]) >= pad).long() for pad in padding])
    return tokens.to("cuda:0"), mask


def last_step(devices: Devices, step: Callable[[int, int], Tensor]) -> tuple[Counts, Tensor]:
    """What a step of one token takes, and its logits, after a prompt and two such steps."""
    step(0, PROMPT)
    for end in range(PROMPT + 1, PROMPT + STEPS):
        step(end - 1, end)
    with devices.counted() as counts:
        logits = step(PROMPT + STEPS - 1, PROMPT + STEPS)
    return counts, logits


@pytest.mark.parametrize("padding", [[0], [0, 2, 5]], ids=["one row", "padded"])
@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "phi3"])
def test_a_step_takes_no_more_than_hugging_faces_and_no_waiting(
    devices: Devices, checkpoint: Callable[[str], Path], architecture: str, padding: list[int]
) -> None:
    folder = checkpoint(architecture)
    tokens, mask = batch(padding)
    on_device, positions = mask.to("cuda:0"), (mask.cumsum(dim=1) - 1).clamp(min=0).to("cuda:0")
    source = read(folder, "sdpa", torch.bfloat16).to("cuda:0")
    past = DynamicCache()

    def of_hugging_face(start: int, end: int) -> Tensor:
        return source(
            tokens[:, start:end],
            attention_mask=on_device[:, :end],
            position_ids=positions[:, start:end],
            past_key_values=past,
            logits_to_keep=1,
        ).logits

    # Built on the host: pretend tensors do not show which of them are parts of others.
    model = bridge.build(read(folder, "eager", torch.bfloat16), None)
    model.to("cuda:0", print_details=False)
    cache = bridge.new_cache(model, len(padding))

    def of_the_bridge(start: int, end: int) -> Tensor:
        return bridge.step(model, tokens[:, start:end], mask[:, :end], cache, logits_to_keep=1)

    expected, logits = last_step(devices, of_hugging_face)
    counts, ours = last_step(devices, of_the_bridge)
    assert torch.equal(ours.cpu(), logits.cpu())
    assert counts.totals() | {"launches": 0} == dict.fromkeys(counts.totals(), 0), counts
    # What a step takes once grows by the mask, what each of the layers takes does not.
    allowed = 0 if padding == [0] else 10
    assert counts.launches.total() <= expected.launches.total() + allowed


@pytest.fixture
def spread(devices: Devices, checkpoint: Callable[[str], Path], tokenizer: Any) -> Any:
    """A Qwen3 whose first block is on one device, and the others on another."""
    accelerate = pytest.importorskip("accelerate")
    source = read(checkpoint("qwen3"), "eager", torch.float32)
    first = {"model.embed_tokens", "model.rotary_emb", "model.layers.0"}
    second = {"model.layers.1", "model.layers.2", "model.norm", "lm_head"}
    places = dict.fromkeys(first, "cuda:0") | dict.fromkeys(second, "cuda:1")
    source = accelerate.dispatch_model(source, places, force_hooks=True)
    expected = self_check.reference(source)
    model = bridge.build(source, tokenizer)
    model.eos_token_ids = frozenset()
    model.abilities = self_check.check(bridge, model, expected)
    return model


def test_a_model_on_two_devices_can_do_everything(spread: Any) -> None:
    assert spread.abilities == self_check.Abilities()
    cache = bridge.new_cache(spread, 2)
    tokens, mask = batch([0, 2])
    bridge.step(spread, tokens, mask, cache, logits_to_keep=0)
    assert [str(layer.keys.device) for layer in layers_of(cache)] == ["cuda:0", "cuda:1", "cuda:1"]
    states = torch.randn(2, 1, 32)
    wanted = None
    for device in ("cpu", "cuda:0", "cuda:1"):  # of the rows' numbers, and of the states
        rows = torch.tensor([1, 0], device=device)
        again = bridge.again(spread, 1, states.to("cuda:1"), mask.flip(0), cache, rows)
        logits = bridge.onward(spread, 1, states.to("cuda:0"), mask.flip(0), cache, rows)
        found = [again.cpu(), logits.cpu()]
        wanted = wanted or found
        assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("variant", ["add", "project"])
def test_vectors_steer_on_each_device(
    devices: Devices, spread: Any, checkpoint: Callable[[str], Path], variant: Any
) -> None:
    plain = mi_lens.load(checkpoint("qwen3"), backend="bridge", device="cpu")
    plain.eos_token_ids = frozenset()
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    hooks = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    steered = [
        mi_lens.Steer(vector, hook, 2.0, at="all", inside_think=False, variant=variant)
        for hook in hooks
    ]
    asked = ["12 * 7?", "84 - 5, so what?"]
    traces = [
        mi_lens.generate(model, asked, steered, max_new_tokens=6, progress=False)
        for model in (spread, plain)
    ]
    assert [t.token_ids for t in traces[0]] == [t.token_ids for t in traces[1]]
    states = [mi_lens.capture(model, traces[1], hooks) for model in (spread, plain)]
    for ours, expected in zip(*states, strict=True):
        for hook in hooks:
            # In float32 the attention kernels of the two round differently.
            torch.testing.assert_close(ours[hook].cpu(), expected[hook], rtol=0, atol=1e-4)
