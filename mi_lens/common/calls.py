"""Reads objects from the text of the call that makes them, such as "IQR(tau=1.5)".

The command line and files hold objects in this form.
"""

import ast
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

# A text in quotes, or the name of a class in a module, such as "my_module:ZeroHead(".
QUOTED_OR_IN_MODULE = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?=\s*\()"""
)

LONGEST = 200  # Characters of a call that an error message shows; a call may hold a whole vector.


def as_expression(text: str) -> str:
    """The text as Python source: the call of a "module:Class" becomes that of module.Class."""
    return QUOTED_OR_IN_MODULE.sub(
        lambda match: f"{match[1]}.{match[2]}" if match[1] else match[0], text.strip()
    )


def _name_called(function: ast.expr) -> str | None:
    """The name of a class, or "module:Class"; None for anything else."""
    if isinstance(function, ast.Name):
        return function.id
    module, _, name = ast.unparse(function).rpartition(".")
    return f"{module}:{name}" if re.fullmatch(r"\w+(\.\w+)*", module) else None


def from_call(text: str, kind_of: Callable[[str], Any], *, what: str, example: str) -> Any:
    """Builds the object that a call describes.

    Only literal arguments are read; no code in the text is run.

    Args:
        text: The call as Python source: "Suppress(['Wait', 'Hmm'])".
        kind_of: Returns the dataclass of that name, which may be "module:Class"; raises a
            ValueError if it knows none.
        what: What the call makes, for error messages.
        example: A valid call, for error messages.

    Raises:
        ValueError: If the text is not such a call; the message says what is wrong.
    """
    try:
        call = ast.parse(as_expression(text), mode="eval").body
        name = _name_called(call.func) if isinstance(call, ast.Call) else None
        if not isinstance(call, ast.Call) or name is None:
            raise ValueError
        arguments = [ast.literal_eval(argument) for argument in call.args]
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f'{what} {text!r}: expected a call with literal arguments, such as "{example}"'
        ) from None
    kind = kind_of(name)
    names = settings_of(kind)
    if len(arguments) > len(names):
        raise ValueError(f"{what} {text!r}: at most {len(names)} arguments: {names}")
    try:
        return build(kind, dict(zip(names, arguments, strict=False)) | settings)
    except ValueError as error:
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        raise ValueError(f"{what} {shown!r}: {error}") from error


def build(kind: Any, settings: dict[str, Any]) -> Any:
    """Builds a dataclass from settings by name.

    Raises:
        ValueError: If a setting is unknown, missing or invalid; the message names it.
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
