"""Runs a module without its hooks."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformer_lens.hook_points import HookPoint


@contextmanager
def silenced(
    module: Any, keep: Callable[[Callable[..., Any]], bool] = lambda function: False
) -> Iterator[None]:
    """Inside this context no hook in the module fires. A hook of the module may open it too.

    Args:
        module: The module.
        keep: Says of a hook's function whether it fires all the same.
    """
    points = [child for child in module.modules() if isinstance(child, HookPoint)]
    attached = [point._forward_hooks for point in points]
    for point, hooks in zip(points, attached, strict=True):
        kept = (
            handle.hook.id
            for handle in point.fwd_hooks
            if handle.user_hook and keep(handle.user_hook)
        )
        point._forward_hooks = OrderedDict((number, hooks[number]) for number in kept)
    try:
        yield
    finally:
        for point, hooks in zip(points, attached, strict=True):
            point._forward_hooks = hooks
