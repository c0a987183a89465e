"""The pretend devices: they run each operation on the CPU, and count what it takes on a GPU."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention.bias import CausalBias
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend_device import attention, rules
from tests.pretend_device.counts import Counts, line_of_package
from tests.pretend_device.tensor import HOST, PretendTensor, current, held


class Devices:
    """The pretend devices, and what is counted on them.

    Args:
        float64: Whether they have float64; Apple's MPS has not.
        cudnn: Whether cuDNN's attention comes first, as on a H100.
    """

    def __init__(self, float64: bool, cudnn: bool):
        self._float64, self._cudnn = float64, cudnn
        self._open: list[Counts] = []
        self._pinned: dict[int, torch.Tensor] = {}  # By address; kept, so that none is used twice.

    @contextlib.contextmanager
    def counted(self) -> Iterator[Counts]:
        """Counts what happens inside."""
        counts = Counts()
        self._open.append(counts)
        try:
            yield counts
        finally:
            self._open.remove(counts)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Takes the tensor's memory for pinned memory."""
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor lies in pinned memory."""
        return tensor.untyped_storage().data_ptr() in self._pinned

    def attend(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See `attention.attend`."""
        given = [t for t in rules.tensors_in((args, kwargs)) if not isinstance(t, CausalBias)]
        rules.require_one_device("attention", torch.ops.aten.bmm.default, args, given)
        return attention.attend(self._open, self._cudnn, *args, **kwargs)

    def run(self, operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation of PyTorch's library."""
        name = operation._schema.name.removeprefix("aten::")
        if rules.dissolves(operation):
            with Operations():
                made = operation.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        tensors = rules.tensors_in((args, kwargs))
        ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        asked = kwargs.get("device")
        place = numbered(asked) if asked is not None else ours[0].place if ours else HOST
        if name in rules.REFUSED and ours:
            raise NotImplementedError(f"a pretend tensor cannot follow {name}")
        rules.require_one_device(name, operation, args, tensors)
        rules.require_generator_of(name, place, kwargs)
        # A copy has its dtype before it leaves a device.
        working = ours[0].place if ours and name in rules.COPIES else place
        dtype = args[0].dtype if name == "copy_" else kwargs.get("dtype")
        self._require_dtype(name, working, dtype)

        held_args, held_kwargs = rules.mapped(held, (args, kwargs))
        if asked is not None:
            held_kwargs["device"] = HOST
        made = operation(*held_args, **held_kwargs)
        if self._open:
            self._count_operation(name, operation, args, kwargs, place, made)
        return self._wrapped(operation, ours, place, made)

    def count(self, kind: str, name: str, times: int = 1) -> None:
        """Counts in all that is open: "launches", "uploads" and so on, of an operation."""
        if times and self._open:
            where = name, line_of_package()
            for counts in self._open:
                getattr(counts, kind)[where] += times

    def _count_operation(
        self, name: str, operation: Any, args: Any, kwargs: Any, place: torch.device, made: Any
    ) -> None:
        if name in rules.COPIES and self._count_copy(name, args, kwargs, place):
            return
        if name == "_local_scalar_dense":
            self.count("downloads", name)
            self.count("waits", name)
        uploads, waits = rules.waits_of_indexing(args) if name in rules.INDEXING else (0, 0)
        counts_repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        self.count("uploads", name, uploads)
        self.count("waits", name, uploads + waits + (name in rules.WAITING or counts_repeats))
        if rules.launches_kernel(name, operation):
            self.count("launches", name)
            if any(tensor.dtype == torch.float64 for tensor in rules.tensors_in(made)):
                self.count("float64", name)

    def _count_copy(self, name: str, args: Any, kwargs: Any, place: torch.device) -> bool:
        """Counts a copy between host and device; says whether it was one."""
        to, source = (None, args[0]) if name == "_to_copy" else args[:2]
        from_host = not isinstance(source, PretendTensor)
        to_host = place == HOST if to is None else not isinstance(to, PretendTensor)
        if from_host == to_host:
            return False
        asynchronous = kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True)
        # PyTorch makes the host's copy in pinned memory if it is asked not to wait.
        host = source if from_host else to
        if not (asynchronous and (host is None or self.is_pinned(host))):
            self.count("waits", name)
        self.count("uploads" if from_host else "downloads", name)
        dtype = kwargs.get("dtype") if to is None else to.dtype
        self.count("launches", name, to_host and dtype not in (None, source.dtype))
        return True

    def _require_dtype(self, name: str, place: torch.device, dtype: Any) -> None:
        if dtype == torch.float64 and place != HOST and not self._float64:
            raise TypeError(f"{name}: device {str(place)!r} has no float64")

    def _wrapped(self, operation: Any, ours: Any, place: torch.device, made: Any) -> Any:
        """The result on its device: the tensor that was written to, or a new one."""
        written = {id(tensor.held): tensor for tensor in ours}
        changes = operation._schema.is_mutable

        def wrap(tensor: Any) -> Any:
            if not isinstance(tensor, torch.Tensor):
                return tensor
            if changes and id(tensor) in written:
                return written[id(tensor)]
            if changes or place == HOST:
                return tensor  # What was written to is the host's.
            self._require_dtype(operation.name(), place, tensor.dtype)
            return PretendTensor(tensor, place)

        return rules.mapped(wrap, made)


def numbered(device: Any) -> torch.device:
    """A device with its number; "cuda" alone is the first."""
    device = torch.device(device)
    return torch.device("cuda:0") if device == torch.device("cuda") else device


class Operations(TorchDispatchMode):
    """Sees each operation of PyTorch's library, also those without a tensor on a device yet."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(is_ours(value) for value in rules.leaves((args, kwargs))):
            return current().run(operation, args, kwargs)
        return operation(*args, **kwargs)


def is_ours(value: Any) -> bool:
    return isinstance(value, PretendTensor) or (
        isinstance(value, torch.device) and value.type == "cuda"
    )
