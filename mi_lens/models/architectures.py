"""The table of the architectures that a HookedTransformer can be loaded from.

Backend "bridge" takes every causal language model that TransformerLens's bridge knows. Backend
"hooked" needs a function that converts the weights: add a new one to `CONVERTERS`, and what its
config needs to `mi_lens.models.backends.conversion`.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

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
