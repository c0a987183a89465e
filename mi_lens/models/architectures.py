"""The table of the architectures that can be loaded; add a new architecture here.

If its config differs from the others, add that to `mi_lens.models.backends.conversion`.
"""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

CONVERSIONS = "transformer_lens.pretrained.weight_conversions"
# Hugging Face's class -> the function that converts its weights to those of a HookedTransformer.
# Only the function's name stands here, because TransformerLens 4 no longer has these functions;
# the bridge does not need them.
ARCHITECTURES = {
    "GPT2LMHeadModel": f"{CONVERSIONS}.gpt2:convert_gpt2_weights",
    "Gemma2ForCausalLM": f"{CONVERSIONS}.gemma:convert_gemma_weights",
    "LlamaForCausalLM": f"{CONVERSIONS}.llama:convert_llama_weights",
    "MistralForCausalLM": f"{CONVERSIONS}.mistral:convert_mistral_weights",
    "Qwen2ForCausalLM": f"{CONVERSIONS}.qwen2:convert_qwen2_weights",
    "Qwen3ForCausalLM": f"{CONVERSIONS}.qwen3:convert_qwen3_weights",
}


def weight_converter(architecture: str) -> Callable[..., dict[str, Any]]:
    """The function that converts (Hugging Face model, config) to a HookedTransformer's weights.

    Args:
        architecture: A key of `ARCHITECTURES`.

    Raises:
        ImportError: If the installed TransformerLens does not have the function (version 4 on).
    """
    return resolve_name(ARCHITECTURES[architecture])
