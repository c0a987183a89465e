"""Reads objects from the text of the call that makes them, such as "IQR(tau=1.5)".

The command line and files hold objects in this form.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

# A text in quotes, or the name of a class in a module, such as "my_module:ZeroHead(".
QUOTED_OR_IN_MODULE = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?=\s*\()"""
)

CALL = {"written as": "call"}  # The metadata of a field whose value is written as a call.
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

    Only literal arguments are read, and calls in the place of fields that are made for one
    (`field(metadata=CALL)`); no code in the text is run.

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
        nodes = dict[int | str, ast.expr](enumerate(call.args)) | {
            str(keyword.arg): keyword.value for keyword in call.keywords
        }
        literals = {
            place: ast.literal_eval(node)
            for place, node in nodes.items()
            if not isinstance(node, ast.Call)
        }
    except (SyntaxError, ValueError):
        raise _no_call(text, what, example) from None
    kind = kind_of(name)
    names = settings_of(kind)
    if len(call.args) > len(names):
        raise ValueError(f"{what} {text!r}: at most {len(names)} arguments: {names}")
    of_calls = {each.name for each in fields(kind) if each.metadata == CALL}
    settings = {}
    for place, node in nodes.items():
        setting = names[place] if isinstance(place, int) else place
        if place in literals:
            settings[setting] = literals[place]
        elif setting in of_calls:
            inner = ast.unparse(node)
            settings[setting] = from_call(inner, kind_of, what=what, example=example)
        else:
            raise _no_call(text, what, example)
    try:
        return build(kind, settings)
    except ValueError as error:
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        raise ValueError(f"{what} {shown!r}: {error}") from error


def _no_call(text: str, what: str, example: str) -> ValueError:
    return ValueError(
        f'{what} {text!r}: expected a call with literal arguments, such as "{example}"'
    )


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


def without_defaults(settings: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that a class got later and that have their default.

    What is named by its settings keeps the name that it had before.

    Args:
        settings: Settings by name.
        later: The defaults of those that came later.
    """
    return {k: value for k, value in settings.items() if k not in later or value != later[k]}


def settings_of(kind: Any) -> list[str]:
    """The names of a dataclass's settings, in order."""
    return [field.name for field in fields(kind) if field.init]
