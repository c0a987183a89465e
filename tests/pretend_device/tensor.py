"""A tensor that says it is on a GPU."""

from collections.abc import Callable
from typing import Any

import torch

_Tensor: Any = torch.Tensor  # Its methods take more than ours, and have other types.
HOST = torch.device("cpu")
# Python's way to these asks PyTorch for its CUDA, which this build lacks.
GUARDED = {
    *("__getitem__", "__setitem__", "__bool__", "__float__", "__int__", "__index__", "item"),
    *("contiguous", "copy_", "nonzero", "__invert__"),
}


class _TensorKind(type(torch.Tensor)):
    """Equal to the class of an ordinary tensor, which TransformerLens's generate asks for."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is torch.Tensor

    __hash__ = type.__hash__


class PretendTensor(_Tensor, metaclass=_TensorKind):
    """Numbers on the CPU that say they are on another device.

    Args:
        held: The numbers.
        device: Where they say they are.
        shown: The device that PyTorch is told, if it is another one.
    """

    held: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device, shown: Any = None):
        with torch.inference_mode(False):  # A view of a weight is an ordinary tensor too.
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=shown or device,
            )
        made.held, made.place = held, device
        return made

    def __init__(self, *args: Any):
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return current().run(operation, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        """Where the numbers say they are, whatever PyTorch is told."""
        return self.place

    def __repr__(self) -> str:
        return f"pretend({self.held!r}, device={str(self.place)!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendTensor":
        if id(self) not in memo:
            memo[id(self)] = copied = PretendTensor(self.held.clone(), self.place)
            if isinstance(self, torch.nn.Parameter):
                memo[id(self)] = torch.nn.Parameter(copied, requires_grad=False)
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.place} device type tensor to numpy; use .cpu() first")

    __array__ = numpy

    def __format__(self, specification: str) -> str:
        return format(self.item() if self.ndim == 0 else repr(self), specification)

    def new_tensor(self, data: Any, **settings: Any) -> torch.Tensor:
        return torch.tensor(data, **({"device": self.place, "dtype": self.dtype} | settings))


def _past_the_guard(name: str) -> Callable[..., Any]:
    """A method of tensors that PyTorch takes for one of a CPU tensor; it is not while it runs."""
    method = getattr(torch.Tensor, name)

    def run(self: PretendTensor, *args: Any, **kwargs: Any) -> Any:
        twin = PretendTensor(self.held, self.place, HOST)
        made = method(twin, *args, **kwargs)
        if made is twin:
            return self
        same = isinstance(made, PretendTensor) and made.held is self.held
        return self if same else made

    return run


for _name in GUARDED:
    setattr(PretendTensor, _name, _past_the_guard(_name))


def held(value: Any) -> Any:
    """The numbers of a pretend tensor; anything else as it is."""
    return value.held if isinstance(value, PretendTensor) else value


OPEN: list[Any] = []  # The `Devices` that are open, the innermost last.


def current() -> Any:
    """The `Devices` on which a pretend tensor lies."""
    if not OPEN:
        raise RuntimeError("a pretend tensor is used outside of its pretend_devices()")
    return OPEN[-1]
