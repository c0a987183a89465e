"""Types and shapes are checked while tests run; what was checked once is not checked again.

jaxtyping looks at every tensor of every call. Decoding makes the same calls with the same shapes
at each step and in each block, and spends two thirds of its time there; so a call like an earlier
one is passed. `tests/conftest.py` puts `check` in the place of `jaxtyping.jaxtyped`.
"""

import inspect
from collections.abc import Callable, Hashable, Iterable
from functools import wraps
from types import FunctionType
from typing import Any, get_args

import jaxtyping
import numpy as np
import torch
from beartype import beartype

TENSORS = (torch.Tensor, np.ndarray)
VALUES = (int, float, bool, str)
check_each_call = jaxtyping.jaxtyped


def kind(argument: Any) -> Hashable:
    """What decides whether an argument fits its annotation; None where only a look inside can."""
    if isinstance(argument, TENSORS):
        return (type(argument), argument.dtype, argument.shape)
    if isinstance(argument, VALUES):
        return (type(argument), argument)
    return None if isinstance(argument, Iterable) else type(argument)


def names_shapes(hint: Any) -> bool:
    """Whether an annotation names the shape of an array, by itself or within another."""
    if isinstance(hint, str):
        return True
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(names_shapes, get_args(hint)))


def check(function: Any = None, *, typechecker: Any = beartype) -> Any:
    """Takes the place of `jaxtyping.jaxtyped`: the same checks, each made once.

    A call is not checked again where arguments of these kinds gave a result of this kind before.
    An instance may meet a protocol by itself, so functions that name one are checked every time.
    """
    if function is None:
        return lambda function: check(function, typechecker=typechecker)
    if not isinstance(function, FunctionType) or inspect.isgeneratorfunction(function):
        return check_each_call(function, typechecker=typechecker)
    hints = [*function.__annotations__.values()]
    if not any(map(names_shapes, hints)):
        return typechecker(function)
    if any(getattr(hint, "_is_protocol", False) for hint in hints):
        return check_each_call(function, typechecker=typechecker)
    return check_new_kinds(function, typechecker)


def check_new_kinds(function: FunctionType, typechecker: Any) -> Callable[..., Any]:
    """The function, checked where its arguments or its result are of kinds not seen together."""
    results: list[Any] = []

    def computed(*args: Any, **kwargs: Any) -> Any:
        return results.pop() if results else function(*args, **kwargs)

    named = FunctionType(computed.__code__, function.__globals__, closure=computed.__closure__)
    checked = check_each_call(wraps(function)(named), typechecker=typechecker)
    passed: dict[Hashable, set[Hashable]] = {}

    @wraps(function)
    def checked_once(*args: Any, **kwargs: Any) -> Any:
        kinds = (*map(kind, args), *kwargs, *map(kind, kwargs.values()))
        if kinds not in passed:
            result = checked(*args, **kwargs)
            if None not in kinds and kind(result) is not None:
                passed[kinds] = {kind(result)}
            return result
        result = function(*args, **kwargs)
        if kind(result) not in passed[kinds]:
            results.append(result)
            checked(*args, **kwargs)
            passed[kinds].add(kind(result))
        return result

    return checked_once
