"""Running a module without its hooks."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformer_lens.hook_points import HookPoint


@contextmanager
def silenced(module: Any) -> Iterator[None]:
    """Inside, no hook at a place in this module fires; also from within one of those hooks."""
    points = [part for part in module.modules() if isinstance(part, HookPoint)]
    attached = [point._forward_hooks for point in points]
    for point in points:
        point._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for point, hooks in zip(points, attached, strict=True):
            point._forward_hooks = hooks
