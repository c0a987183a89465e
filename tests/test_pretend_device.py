"""The pretend accelerator refuses what CUDA refuses, and counts what was counted by hand."""

import copy
from collections import Counter

import pytest
import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from tests.pretend_device import Devices, pretend_devices

pytestmark = pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has its own CUDA")


@pytest.fixture(params=[torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def devices(request):
    with pretend_devices() as made, request.param():
        yield made


def on(device: str, *size: int) -> torch.Tensor:
    return torch.arange(1.0, 1 + torch.Size(size).numel()).view(size).to(device)


REFUSED = {
    "sum of two devices": lambda: on("cuda:0", 3) + on("cuda:1", 3),
    "sum with the host": lambda: on("cuda:0", 3) + on("cpu", 3),
    "product with the host": lambda: on("cuda:0", 3, 3) @ on("cpu", 3, 3),
    "the host's sum with a device's number": lambda: on("cpu", 3) + on("cuda:0", 3)[0],
    "the host's, indexed by a device": lambda: on("cpu", 3)[torch.tensor([1]).to("cuda")],
    "indexed by another device": lambda: on("cuda:0", 3)[torch.tensor([1]).to("cuda:1")],
    "rows of the host written": lambda: on("cuda:0", 3).index_put_((_ids(0),), on("cpu", 1)),
    "attention of two devices": lambda: functional.scaled_dot_product_attention(
        on("cuda:0", 1, 1, 2, 8), on("cuda:1", 1, 1, 2, 8), on("cuda:1", 1, 1, 2, 8)
    ),
    "joined": lambda: torch.cat([on("cuda:0", 3), on("cpu", 1)]),
    "a number of the host gathered": lambda: on("cuda:0", 3).gather(0, torch.tensor(0)),
    "the host's random numbers": lambda: torch.rand(
        2, device="cuda:0", generator=torch.Generator()
    ),
}


def _ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


@pytest.mark.parametrize("what", REFUSED)
def test_tensors_of_two_devices_are_refused(devices: Devices, what: str) -> None:
    with pytest.raises(RuntimeError, match=r"expected (all|a)|same device"):
        REFUSED[what]()


def test_a_device_tensor_is_no_array(devices: Devices) -> None:
    with pytest.raises(TypeError, match="cuda:1"):
        on("cuda:1", 2).numpy()


# What is done, the result, and launches, uploads, downloads, waits.
COUNTED = {
    "views": (lambda x: x[1:, None, 0].T, [[4.0]], (0, 0, 0, 0)),
    "arithmetic": (
        lambda x: (x + 1) * 2 - torch.tensor(1.0),
        [[3, 5, 7], [9, 11, 13]],
        (3, 0, 0, 0),
    ),
    "in place": (lambda x: x.add_(1).mul_(2), [[4, 6, 8], [10, 12, 14]], (2, 0, 0, 0)),
    "a product": (lambda x: x @ x.T, [[14, 32], [32, 77]], (1, 0, 0, 0)),
    "a linear layer": (lambda x: functional.linear(x, x), [[14, 32], [32, 77]], (1, 0, 0, 0)),
    "made there": (lambda x: torch.zeros(2, device="cuda"), [0, 0], (1, 0, 0, 0)),
    "made here": (lambda x: torch.tensor([1, 2], device="cuda"), [1, 2], (0, 1, 0, 1)),
    "moved to the host": (lambda x: x.cpu(), [[1, 2, 3], [4, 5, 6]], (0, 0, 1, 1)),
    "moved to the host, with fewer digits": (
        lambda x: x[0].to("cpu", torch.bfloat16),
        [1, 2, 3],
        (1, 0, 1, 1),
    ),
    "moved without waiting": (
        lambda x: x.to("cpu", non_blocking=True),
        [[1, 2, 3], [4, 5, 6]],
        (0, 0, 1, 0),
    ),
    "from pinned memory": (
        lambda x: torch.ones(2).pin_memory().to("cuda:0", non_blocking=True),
        [1, 1],
        (0, 1, 0, 0),
    ),
    "from pinned memory, waited for": (
        lambda x: torch.ones(2, pin_memory=True).to("cuda:0"),
        [1, 1],
        (0, 1, 0, 1),
    ),
    "into pinned memory": (
        lambda x: torch.empty(2, 3, pin_memory=True).copy_(x, non_blocking=True),
        [[1, 2, 3], [4, 5, 6]],
        (0, 0, 1, 0),
    ),
    "not into pinned memory": (
        lambda x: torch.empty(2, 3).copy_(x, non_blocking=True),
        [[1, 2, 3], [4, 5, 6]],
        (0, 0, 1, 1),
    ),
    "a number": (lambda x: float(x.sum()), 21.0, (1, 0, 1, 1)),
    "a truth": (lambda x: bool((x > 0).all()), True, (2, 0, 1, 1)),
    "a list": (lambda x: x[0].tolist(), [1, 2, 3], (0, 0, 1, 1)),
    "an index of the host": (lambda x: x[:, [0, 2]], [[1, 3], [4, 6]], (1, 1, 0, 1)),
    "a place on the device": (lambda x: x[0][x[0, 0].long()], 2.0, (1, 0, 1, 1)),
    "a mask": (lambda x: x[x > 4], [5, 6], (2, 0, 0, 1)),
    "a number written by a mask": (
        lambda x: x.index_put_((x > 4,), torch.tensor(0.0)),
        [[1, 2, 3], [4, 0, 0]],
        (2, 0, 0, 0),
    ),
    "true places": (lambda x: torch.nonzero(x > 5), [[1, 2]], (2, 0, 0, 1)),
    "to another device": (lambda x: x.to("cuda:1"), [[1, 2, 3], [4, 5, 6]], (1, 0, 0, 0)),
    "a norm": (lambda x: functional.rms_norm(x[:1] * 0 + 2, (3,)), [[1, 1, 1]], (3, 0, 0, 0)),
}


def plain(value: object) -> object:
    return value.cpu().tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("what", COUNTED)
def test_launches_copies_and_waits_are_those_counted_by_hand(devices: Devices, what: str) -> None:
    run, result, by_hand = COUNTED[what]
    x = on("cuda:0", 2, 3)
    with devices.counted() as counts:
        made = run(x)
    assert tuple(counts.totals().values()) == by_hand
    assert plain(made) == result


def test_written_places_are_the_tensors_own(devices: Devices) -> None:
    x = on("cuda:1", 2, 3)
    x[0, 1:] = 0
    x[:, [0]] += 10
    view = x[1]
    view.copy_(torch.tensor([7.0, 8.0, 9.0]))
    assert x.tolist() == [[11, 0, 0], [7, 8, 9]]
    assert x.contiguous() is x
    assert x.to("cuda:1") is x


def test_modules_move_and_are_copied_with_their_classes(devices: Devices) -> None:
    layer = torch.nn.Linear(2, 2).to("cuda").requires_grad_(False)
    again = copy.deepcopy(layer)
    x = on("cuda:0", 1, 2)
    assert torch.equal(layer(x), again(x))
    assert again.weight.data_ptr() != layer.weight.data_ptr()
    assert all(isinstance(p, torch.nn.Parameter) for p in (*layer.parameters(), again.weight))
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    parameter.data = parameter.data.to("cuda:1")
    assert str(parameter.device) == "cuda:1"


def test_a_device_may_lack_float64() -> None:
    with pretend_devices(float64=False):
        assert on("cuda:0", 2).cpu().double().tolist() == [1, 2]
        for make in (
            lambda: on("cuda:0", 2).double(),
            lambda: torch.ones(2, dtype=torch.float64).to("cuda:0"),
            lambda: torch.zeros(2, dtype=torch.float64, device="cuda:0"),
            lambda: on("cuda:0", 2).sum(dtype=torch.float64),
            lambda: on("cuda:0", 2).to("cpu", torch.float64),
        ):
            with pytest.raises(TypeError, match="has no float64"):
                make()


def test_a_tensor_does_not_outlive_its_device() -> None:
    with pretend_devices():
        x = on("cuda:0", 2)
    with pytest.raises(RuntimeError, match="outside of its pretend_devices"):
        x.add(1)


KERNELS = {  # dtype, heads of queries, of keys, width, mask
    "flash": ("bfloat16", 4, 2, 8, None),
    "efficient": ("float32", 4, 4, 8, None),
    "efficient ": ("bfloat16", 4, 4, 8, "mask"),
    "math": ("float32", 4, 2, 8, None),
    "math ": ("bfloat16", 4, 2, 8, "mask"),
    "math  ": ("float64", 4, 4, 8, None),
    "math   ": ("float32", 4, 4, 6, None),
    "flash ": ("bfloat16", 4, 2, 8, "lower right"),
    "math    ": ("float32", 4, 2, 8, "lower right"),
}


@pytest.mark.parametrize(("kernel", "given"), KERNELS.items())
def test_attention_goes_to_the_kernel_that_pytorch_takes(devices, kernel, given) -> None:
    dtype, heads, shared, width, mask = given
    sizes = ((heads, 3), (shared, 5), (shared, 5))
    q, k, v = (torch.randn(1, n, m, width, dtype=getattr(torch, dtype)) for n, m in sizes)
    seen = torch.ones(3, 5, dtype=torch.bool).tril(2)
    attend = functional.scaled_dot_product_attention
    right = attend(q, k, v, seen if mask else None, enable_gqa=True)
    given_mask = {None: None, "mask": seen.to("cuda:0"), "lower right": causal_lower_right(3, 5)}
    with devices.counted() as counts:
        made = attend(
            q.to("cuda:0"), k.to("cuda:0"), v.to("cuda:0"), given_mask[mask], enable_gqa=True
        )
    assert {given.split(",")[0] for given, _ in counts.attention} == {kernel.strip()}
    assert torch.allclose(made.cpu(), right, atol=0.02 if dtype == "bfloat16" else 1e-6)


def test_cudnn_plans_for_every_shape_until_it_is_turned_off() -> None:
    def kernels() -> Counter[str]:
        with pretend_devices(cudnn=True) as devices, devices.counted() as counts:
            for total in range(2, 6):
                q, k = on("cuda:0", 1, 2, 1, 8).bfloat16(), on("cuda:0", 1, 2, total, 8).bfloat16()
                functional.scaled_dot_product_attention(q, k, k)
        return Counter({kernel: len(plans) for kernel, plans in counts.plans.items()})

    assert kernels() == {"cudnn": 4}
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        assert kernels() == {"flash": 4}
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
