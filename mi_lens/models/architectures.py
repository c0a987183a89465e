"""The table of the architectures that can be loaded, with the backends that each of them has.

Backend "bridge" takes every causal language model that TransformerLens's bridge knows. Backend
"hooked" needs a function that converts the weights: add a new one to `CONVERTERS`, and what its
config needs to `mi_lens.models.backends.conversion`.
"""

import difflib
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any

from mi_lens.models.backends.lookup import available

_CONVERSIONS = "transformer_lens.pretrained.weight_conversions"
# Hugging Face's class -> the function that converts its weights to those of a HookedTransformer.
# Only the function's name stands here, because TransformerLens 4 no longer has these functions;
# the bridge does not need them.
CONVERTERS = {
    "GPT2LMHeadModel": f"{_CONVERSIONS}.gpt2:convert_gpt2_weights",
    "Gemma2ForCausalLM": f"{_CONVERSIONS}.gemma:convert_gemma_weights",
    "Gemma3ForCausalLM": f"{_CONVERSIONS}.gemma:convert_gemma_weights",
    "LlamaForCausalLM": f"{_CONVERSIONS}.llama:convert_llama_weights",
    "MistralForCausalLM": f"{_CONVERSIONS}.mistral:convert_mistral_weights",
    # That of OLMo 3 knows grouped heads too, and the two have the same weights.
    "Olmo2ForCausalLM": f"{_CONVERSIONS}.olmo3:convert_olmo3_weights",
    "Phi3ForCausalLM": f"{_CONVERSIONS}.phi3:convert_phi3_weights",
    "Qwen2ForCausalLM": f"{_CONVERSIONS}.qwen2:convert_qwen2_weights",
    "Qwen3ForCausalLM": f"{_CONVERSIONS}.qwen3:convert_qwen3_weights",
}


def weight_converter(architecture: str) -> Callable[..., dict[str, Any]]:
    """The function that converts (Hugging Face model, config) to a HookedTransformer's weights.

    Args:
        architecture: A key of `CONVERTERS`.

    Raises:
        ImportError: If the installed TransformerLens does not have the function (version 4 on).
    """
    return resolve_name(CONVERTERS[architecture])


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
