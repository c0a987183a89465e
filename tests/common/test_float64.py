"""float64 on the tensor's device, or on the CPU with one warning."""

import pytest
import torch

from mi_lens.common.float64 import float64_device, in_float64


@pytest.fixture(autouse=True)
def devices_asked_anew():
    float64_device.cache_clear()
    yield
    float64_device.cache_clear()


def refuse(message: str, kind: type[Exception] = TypeError):
    def zeros(*size, **settings):
        raise kind(message)

    return zeros


def test_a_tensor_stays_where_float64_is():
    tensor = torch.tensor([1.5, 2.5], dtype=torch.bfloat16)
    made = in_float64(tensor)
    assert made.dtype == torch.float64
    assert made.device == tensor.device
    assert made.tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Cannot convert a MPS Tensor to float64 dtype", TypeError),
        ("Required aspect fp64 is not supported on the device", RuntimeError),
    ],
)
def test_a_device_without_float64_is_told_once(monkeypatch, recwarn, message, kind):
    monkeypatch.setattr(torch, "zeros", refuse(message, kind))
    assert [float64_device(torch.device("mps")) for _ in range(3)] == [torch.device("cpu")] * 3
    (told,) = recwarn
    assert "device 'mps' has no float64" in str(told.message)


def test_another_error_is_not_taken_for_a_device_without_float64(monkeypatch):
    monkeypatch.setattr(torch, "zeros", refuse("out of memory", torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        float64_device(torch.device("mps"))
