"""What produced a result: content named by its hash, and the versions of everything that decides a
number.
"""

import json
import platform
from hashlib import blake2b
from importlib.metadata import version
from typing import Any


def content_hash(value: Any) -> str:
    """Names a JSON-able value by its content: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def versions() -> dict[str, str]:
    """Versions of everything that decides a number."""
    packages = ("mi-lens", "torch", "transformer-lens", "transformers", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
