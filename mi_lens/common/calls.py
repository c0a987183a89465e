"""Objects written as the call that makes them, on the command line and in files: "IQR(tau=1.5)"."""

import ast
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def from_call(text: str, kind_of: Callable[[str], Any], *, what: str, example: str) -> Any:
    """The object that a call makes. Only literal arguments are read; nothing else is run.

    Args:
        text: As one would write it in Python: "Suppress(['Wait', 'Hmm'])".
        kind_of: The dataclass of a name; it raises a ValueError for a name that it does not know.
        what: What the call makes, for errors.
        example: A call that would do, for errors.

    Raises:
        ValueError: Saying what is wrong with the text.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        arguments = [ast.literal_eval(argument) for argument in call.args]
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f'{what} {text!r}: expected a call with literal arguments, as "{example}"'
        ) from None
    kind = kind_of(call.func.id)
    names = settings_of(kind)
    if len(arguments) > len(names):
        raise ValueError(f"{what} {text!r}: at most {len(names)} arguments: {names}")
    return build(kind, dict(zip(names, arguments, strict=False)) | settings)


def build(kind: Any, settings: dict[str, Any]) -> Any:
    """A dataclass from settings by name.

    Raises:
        ValueError: Naming a setting that is unknown, missing or impossible.
    """
    known = settings_of(kind)
    unknown = settings.keys() - set(known)
    if unknown:
        raise ValueError(f"{kind.__name__}: unknown {sorted(unknown)}; expected some of {known}")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}; settings: {known}") from None


def settings_of(kind: Any) -> list[str]:
    """The names of a dataclass's settings, in order."""
    return [field.name for field in fields(kind) if field.init]
