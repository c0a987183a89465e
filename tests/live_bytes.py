"""The memory of tensors, counted: the same on every machine, whatever its allocator does."""

from weakref import finalize

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside, counts the bytes of tensors that operations make, as long as they live.

    Attributes:
        now: Bytes that live now.
        peak: The most that ever lived at once, after an operation.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {id(t.untyped_storage()) for t in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if id(storage) not in before | self._counted:
                self._counted.add(id(storage))
                self.now += storage.nbytes()
                finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _freed(self, storage: int, size: int) -> None:
        self._counted.remove(storage)
        self.now -= size


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
