"""What makes PyTorch believe that there are GPUs."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from torch.nn.attention.bias import CausalBias
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from tests.pretend_device.devices import Devices, Operations, numbered
from tests.pretend_device.tensor import OPEN, PretendTensor, current, held


class _Functions(TorchFunctionMode):
    """Sees each function of PyTorch, before it becomes operations."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        settings: dict[str, Any] = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        first: Any = args[0] if args else None
        if name == "__set__" and getattr(function, "__self__", None) is torch.Tensor.data:
            return _set_data(*args)
        if name == "cuda" and isinstance(first, torch.Tensor):
            return first.to(numbered(args[1] if args[1:] else "cuda"))
        if name == "pin_memory":
            return current().pin(first.clone())
        if name == "is_pinned":
            return not isinstance(first, PretendTensor) and current().is_pinned(first)
        if settings.pop("pin_memory", False):
            return current().pin(function(*args, **settings))
        if name == "to" and isinstance(first, torch.Tensor):
            args = tuple(numbered(a) if _is_device(a) else a for a in args)
        if settings.get("device") is not None:
            settings["device"] = numbered(settings["device"])
        if isinstance(first, PretendTensor):
            if function is functional.scaled_dot_product_attention:
                return current().attend(*args, **settings)
            if function in (torch.rms_norm, functional.rms_norm):
                return _rms_norm(*args, **settings)
            if function is torch.nonzero:
                return first.nonzero(*args[1:], **settings)
        return function(*args, **settings)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device | str)


def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: Any = None) -> torch.Tensor:
    """One kernel with CUDA, several operations without."""
    made = torch.rms_norm(x.held, shape, held(weight), eps)
    current().count("launches", "rms_norm")
    return PretendTensor(made, x.place)


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """`parameter.data = value`, also with a value of another device."""
    if isinstance(tensor, PretendTensor) and isinstance(value, PretendTensor):
        tensor.held, tensor.place = value.held, value.place
    elif isinstance(tensor, PretendTensor) or isinstance(value, PretendTensor):
        tensor.requires_grad_(False)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        new = torch.nn.Parameter(value, requires_grad=False) if is_parameter else value
        torch.utils.swap_tensors(tensor, new)
    else:
        with torch._C.DisableTorchFunction():
            tensor.data = value


def _causal_bias(cls: type, *_: Any) -> Any:
    """PyTorch makes no tensor of a class of its own while each operation is watched."""
    with _disable_current_modes():
        return torch.Tensor.__new__(cls)


@contextlib.contextmanager
def pretend_devices(*, float64: bool = True, cudnn: bool = False) -> Iterator[Devices]:
    """Inside, there are devices `cuda:0`, `cuda:1` and so on; "cuda" is the first.

    Args:
        float64: Whether they have float64; Apple's MPS has not.
        cudnn: Whether cuDNN's attention comes first, as on a H100 with PyTorch 2.11 and later.
    """
    lifts_host_tensors = torch._C._only_lift_cpu_tensors()
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    devices = Devices(float64, cudnn)
    OPEN.append(devices)
    # `torch.tensor(numbers, device=...)` makes a tensor of the host, and copies it.
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init"))
            built = mock.patch.object(torch.backends.cuda, "is_built", return_value=True)
            stack.enter_context(built)
            stack.enter_context(mock.patch.object(CausalBias, "__new__", _causal_bias))
            for mode in (torch.no_grad(), Operations(), _Functions()):
                stack.enter_context(mode)
            yield devices
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch._C._set_only_lift_cpu_tensors(lifts_host_tensors)
        OPEN.remove(devices)
