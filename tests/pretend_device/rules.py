"""What an operation does on a GPU: whether it is refused, launches a kernel, or lets the host wait.

Operations have the names of PyTorch's library, as in `torch.ops.aten`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._ops import OpOverload

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPIES = {"copy_", "copy", "_to_copy"}
# They make room, name a tensor anew, or look at its description.
WITHOUT_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias"),
    *("_unsafe_view", "_reshape_alias", "lift_fresh", "_local_scalar_dense", "is_same_size"),
    *("_linalg_check_errors", "resolve_conj", "resolve_neg", "record_stream", "detach_"),
}
# The host needs the size of the result, a number, or to know whether it worked.
WAITING = {
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"),
    *("bincount", "histc", "multinomial", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd"),
    *("linalg_eig", "linalg_lstsq", "allclose"),
}
TAKES_NUMBERS = {"fill_", "fill", "masked_fill", "masked_fill_"}  # Beside arithmetic.
# A wrapper cannot follow a tensor whose description changes.
REFUSED = {
    "resize_",
    "set_",
    "squeeze_",
    "unsqueeze_",
    "transpose_",
    "t_",
    "as_strided_",
    "swapaxes_",
}


def leaves(value: Any) -> Iterator[Any]:
    """All that is in lists and mappings of lists, which is how operations are given tensors."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        yield from leaves(tuple(value.values()))
    else:
        yield value


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same lists and mappings, with each of their leaves replaced."""
    if isinstance(value, list | tuple):
        return type(value)([mapped(function, part) for part in value])
    if isinstance(value, dict):
        return {key: mapped(function, part) for key, part in value.items()}
    return function(value)


def tensors_in(values: Any) -> list[torch.Tensor]:
    """All tensors, also those in lists."""
    return [value for value in leaves(values) if isinstance(value, torch.Tensor)]


@functools.cache
def dissolves(operation: OpOverload) -> bool:
    """Whether PyTorch makes the operation of others, on every device."""
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return operation._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(
        operation.name(), implicit
    )


def require_one_device(
    name: str, operation: OpOverload, args: Any, tensors: list[torch.Tensor]
) -> None:
    """Refuses tensors of two devices, but for numbers and indices from the host.

    A number (a tensor without dimensions) of the host may stand in arithmetic, and be written to a
    place of an indexed tensor. Indices may come from the host.

    Args:
        name: The operation's name.
        operation: The operation.
        args: What it is called with.
        tensors: All tensors among these.

    Raises:
        RuntimeError: With the devices and the operation.
    """
    if name in COPIES or len(tensors) < 2:
        return
    if name in INDEXING:
        indices = tensors_in(args[1])
        tensors = [tensor for tensor in tensors if all(tensor is not i for i in indices)]
        tensors += [index for index in indices if index.device.type != "cpu"]
    devices = {str(tensor.device) for tensor in tensors}
    if devices == {"cpu"} or len(devices) < 2:
        return
    of_host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    takes_numbers = torch.Tag.pointwise in operation.tags or name in INDEXING | TAKES_NUMBERS
    if len(devices - {"cpu"}) > 1 or any(t.ndim for t in of_host) or not takes_numbers:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, found {sorted(devices)}"
        )


def require_generator_of(name: str, device: torch.device, kwargs: Any) -> None:
    """Refuses random numbers of the host's generator on a device.

    Raises:
        RuntimeError: With the devices.
    """
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type != device.type:
        raise RuntimeError(
            f"{name}: expected a generator of device {str(device)!r}, found {generator.device}"
        )


def waits_of_indexing(args: Any) -> tuple[int, int]:
    """Uploads, each of which the host waits for, and further waits of an indexed tensor.

    What comes from the host is uploaded. Of a truth-valued index the host counts the true places,
    but not where a number of the host is written to them.

    Args:
        args: The tensor, its indices, and what is written to it if something is.
    """
    indices = tensors_in(args[1])
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    of_host = [index for index in indices if index.device.type == "cpu"]
    if len(args) > 2 and args[2].device.type == "cpu":
        if len(masks) == len(indices):
            return len(of_host), 0
        of_host.append(args[2])
    return len(of_host), sum(mask.device.type != "cpu" for mask in masks)


def launches_kernel(name: str, operation: OpOverload) -> bool:
    """Whether a kernel starts; copies between host and device are counted as such."""
    return not operation.is_view and name not in WITHOUT_KERNEL
