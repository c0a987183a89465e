"""Finds the backends of the installed TransformerLens, of an architecture, and of a model."""

import difflib
import importlib.metadata
import importlib.util
from functools import cache
from typing import Any

from mi_lens.models.architectures import CONVERTERS
from mi_lens.models.backends.protocol import Backend

NAMES = ("hooked", "bridge")


def available() -> tuple[str, ...]:
    """The backends that the installed TransformerLens has, the preferred one first."""
    has_hooked = importlib.util.find_spec("transformer_lens.HookedTransformer") is not None
    return NAMES if has_hooked else ("bridge",)


@cache
def bridge_architectures() -> frozenset[str]:
    """Hugging Face's causal language models that the installed TransformerLens's bridge knows."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal: set[str] = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([names] if isinstance(names, str) else names)
    return frozenset(causal.intersection(SUPPORTED_ARCHITECTURES))


def backends_of(architecture: Any) -> tuple[str, ...]:
    """The installed backends that can load an architecture, the preferred one first.

    Raises:
        ValueError: If there is none; the message has similar names.
    """
    known = bridge_architectures()
    found = tuple(
        name for name in available() if architecture in (CONVERTERS if name == "hooked" else known)
    )
    if not found:
        near = difflib.get_close_matches(str(architecture), known, n=3, cutoff=0.8)
        raise ValueError(
            f"architecture {architecture!r} is not supported; expected one of the {len(known)} "
            "causal language models that TransformerLens's bridge knows, such as "
            f"{', '.join([*near, 'LlamaForCausalLM', 'Qwen2ForCausalLM'])}"
        )
    return found


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
