"""What produced a result: hashes of its settings, and the versions of the packages it used."""

import json
import platform
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
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
    """The versions of Python and of every package that can change a number.

    "code" is a hash of this package's code for decoding, which may change within a version.
    """
    packages = ("mi-lens", "torch", "transformer-lens", "transformers", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "code": code_hash(*DECODING),
    }


# The parts of the package that decide which tokens a model writes.
DECODING = (
    "generation",
    "interventions",
    "models/attached_hooks.py",
    "models/backends",
    "models/loading.py",
    "models/padding.py",
    "problems/chat_template.py",
    "problems/prompts.py",
    "problems/think_kinds.py",
    "traces/think_block.py",
    "traces/thoughts.py",
    "traces/vocabulary.py",
)


@cache
def code_hash(*parts: str) -> str:
    """A hash of the code in files and folders of this package, as 8 hexadecimal digits."""
    package = Path(__file__).parents[1]
    digest = blake2b(digest_size=4)
    for part in parts:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
