import torch

from mi_lens.common.on_device import on_device


def test_the_same_values_are_copied_once():
    first = on_device((1, 0), "cpu")
    assert first.tolist() == [1, 0]
    assert on_device((1, 0), "cpu") is first
    assert on_device((0, 1), "cpu") is not first


def test_equal_python_values_may_be_of_other_dtypes():
    whole, truths = on_device((1, 0), "cpu"), on_device((True, False), "cpu", torch.bool)
    assert (whole.dtype, truths.dtype) == (torch.int64, torch.bool)
    assert torch.tensor([5, 6])[whole].tolist() == [6, 5]
    assert torch.tensor([5, 6])[truths].tolist() == [5]


def test_made_in_inference_mode_they_are_of_use_outside():
    with torch.inference_mode():
        index = on_device((2, 0, 1), "cpu")
    x = torch.randn(3, requires_grad=True)
    x[index].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1]
