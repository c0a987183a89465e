"""What produced a result: hashes of its settings, and the versions of the packages it used."""

import json
import platform
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version
from typing import Any


def content_hash(value: Any) -> str:
    """A hash of a value that JSON can hold, as 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Maps the dotted name of each setting in which two records differ to its two values.

    The names are sorted. If a record lacks a setting, its value is None.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name), b.get(name)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            changed |= {f"{name}.{inner}": pair for inner, pair in differences(x, y).items()}
        elif x != y:
            changed[name] = (x, y)
    return changed


def versions() -> dict[str, str]:
    """The versions of Python and of every package that can change a number."""
    packages = ("mi-lens", "torch", "transformer-lens", "transformers", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
