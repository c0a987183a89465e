"""Settings held against their annotations: one mechanism for Python, YAML and the command line."""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints


def require_types(settings: Any, names: Iterable[str] | None = None) -> None:
    """Raises a ValueError unless the fields of a dataclass have the types that it says.

    A truth value is no number, a whole number may stand for a fraction, and nothing is converted.

    Args:
        settings: An instance of a dataclass.
        names: The fields to check. None checks all.
    """
    from pydantic import ValidationError  # takes a while to load, and --help does without

    hints = _hints(type(settings))
    for name in [field.name for field in fields(settings)] if names is None else names:
        value = getattr(settings, name)
        try:
            _adapter(type(settings), name).validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"[{at!r}]" for at in first["loc"] if not _is_a_type(at, value))
            raise ValueError(
                f"{name}={value!r}: {first['msg']}{f' at {name}{place}' if place else ''}; "
                f"expected {_shown(hints[name])}"
            ) from None


def require_at_least(settings: Any, **lowest: int) -> None:
    """Raises a ValueError unless each of these fields is None or at least so much."""
    for name, bound in lowest.items():
        value = getattr(settings, name)
        if value is not None and not value >= bound:
            raise ValueError(f"{name}={value!r}: expected at least {bound}")


def require_distinct(name: str, values: Iterable[Hashable]) -> None:
    """Raises a ValueError if a value occurs twice, or there is none."""
    counts = Counter(values)
    repeated = [value for value, count in counts.items() if count > 1]
    if repeated or not counts:
        which = f"{repeated[0]!r} more than once" if repeated else "none"
        raise ValueError(f"{name}: {which}; expected at least one, and each once")


def _is_a_type(at: int | str, value: Any) -> bool:
    """Whether a part of pydantic's place names a member of a union, not a place in the value."""
    return isinstance(at, str) and not isinstance(value, dict)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _adapter(kind: type, name: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_hints(kind)[name])


def _shown(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    for module in ("typing.", "pathlib.", "collections.abc."):
        text = text.replace(module, "")
    return text
