"""The architectures that can be loaded: the one table to which a new one is added.

Config differences of a new architecture, if it has any, go to `mi_lens.models.backends.conversion`.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

CONVERSIONS = "transformer_lens.pretrained.weight_conversions"
# Hugging Face's class, and the function that converts its weights to a HookedTransformer's. The
# function is named, not imported: TransformerLens 4 has none of them, and the bridge needs none.
ARCHITECTURES = {
    "GPT2LMHeadModel": f"{CONVERSIONS}.gpt2:convert_gpt2_weights",
    "Gemma2ForCausalLM": f"{CONVERSIONS}.gemma:convert_gemma_weights",
    "LlamaForCausalLM": f"{CONVERSIONS}.llama:convert_llama_weights",
    "MistralForCausalLM": f"{CONVERSIONS}.mistral:convert_mistral_weights",
    "Qwen2ForCausalLM": f"{CONVERSIONS}.qwen2:convert_qwen2_weights",
    "Qwen3ForCausalLM": f"{CONVERSIONS}.qwen3:convert_qwen3_weights",
}


def weight_converter(architecture: str) -> Callable[..., dict[str, Any]]:
    """The function that makes a HookedTransformer's weights of (Hugging Face model, config).

    Args:
        architecture: A key of `ARCHITECTURES`.

    Raises:
        ImportError: The installed TransformerLens has no such function, as from 4 on.
    """
    return resolve_name(ARCHITECTURES[architecture])
