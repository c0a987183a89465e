"""Runs a module without its hooks."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformer_lens.hook_points import HookPoint


@contextmanager
def silenced(module: Any) -> Iterator[None]:
    """Inside this context no hook in the module fires. A hook of the module may open it too."""
    points = [child for child in module.modules() if isinstance(child, HookPoint)]
    attached = [point._forward_hooks for point in points]
    for point in points:
        point._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for point, hooks in zip(points, attached, strict=True):
            point._forward_hooks = hooks
