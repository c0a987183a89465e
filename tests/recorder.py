"""What a CUDA graph does, on a CPU: operations are recorded once, and replayed on the same memory.

A replay runs the recorded operations again with the tensors and numbers of the recording, and puts
each result where the recorded one lies. So a step that hides a number in Python, reads a tensor
that has been exchanged, or gives away memory that a replay overwrites, differs from the same step
run as usual. As for CUDA, nothing may be read by the host while operations are recorded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar" not in str(func), "the host waits in a recording"
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def record(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """As `mi_lens.models.backends.recorded_steps.record_cuda_graph`."""
    run()  # CUDA needs a run before.
    with _Recording() as recording:
        output = run()

    def replay() -> None:
        for func, args, kwargs, result in recording.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    # What the recording computed must not be of use before the first replay.
    for tensor in _made(recording):
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    return replay, output


def _made(recording: _Recording) -> list[Tensor]:
    """The results that lie in memory which the recording took, and nobody wrote before."""
    written: set[int] = set()  # Memory that came from elsewhere.
    made: dict[int, list[Tensor]] = {}
    for _, args, kwargs, result in recording.calls:
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        written |= given - made.keys()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _memory(leaf) not in written:
                made.setdefault(_memory(leaf), []).append(leaf)
    return [tensor for tensors in made.values() for tensor in tensors]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
