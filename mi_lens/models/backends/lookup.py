"""Finds the backends of the installed TransformerLens, and the backend of a model."""

import importlib.metadata
import importlib.util
from typing import Any

from mi_lens.models.backends.protocol import Backend

NAMES = ("hooked", "bridge")


def available() -> tuple[str, ...]:
    """The backends that the installed TransformerLens has, the preferred one first."""
    has_hooked = importlib.util.find_spec("transformer_lens.HookedTransformer") is not None
    return NAMES if has_hooked else ("bridge",)


def get_backend(name: str) -> Backend:
    """The backend of this name.

    Raises:
        ValueError: If there is no such backend, or the installed TransformerLens lacks it.
    """
    if name not in NAMES:
        raise ValueError(f"backend {name!r} does not exist; choose 'auto' or one of {list(NAMES)}")
    if name not in available():
        version = importlib.metadata.version("transformer-lens")
        raise ValueError(
            f"backend {name!r} needs HookedTransformer, which TransformerLens {version} does not "
            "have; use backend='bridge', or install 'transformer-lens>=3.9,<4'"
        )
    if name == "hooked":
        from mi_lens.models.backends import hooked

        return hooked
    from mi_lens.models.backends import bridge

    return bridge


def backend_of(model: Any) -> Backend:
    """The backend of a model, by its class.

    Raises:
        TypeError: If the model is neither a HookedTransformer nor a TransformerBridge.
    """
    classes = {base.__name__ for base in type(model).__mro__}
    if "HookedTransformer" in classes:
        return get_backend("hooked")
    if "TransformerBridge" in classes:
        return get_backend("bridge")
    raise TypeError(
        f"{type(model).__name__} is neither a HookedTransformer nor a TransformerBridge; "
        "mi_lens.load makes such a model from a checkpoint"
    )
