"""What the check at load says of a tiny random model of every architecture that the bridge knows.

python -m experiments.architectures

It prints a table for docs/limits.md. The models have random weights and four blocks: it shows which
architectures this package can drive, and nothing of what their checkpoints do.
"""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from mi_lens.models.backends import bridge
from mi_lens.models.backends.lookup import bridge_architectures
from mi_lens.models.self_check import Abilities, check, reference

# Sizes by all the names that configs have for them; each config takes those that it knows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "rotary_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "mamba_expand"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "shared_intermediate_size": 48},
    **{"vocab_size": 390, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    **{"initializer_range": 0.3, "sliding_window": 5, "attention_layers": ["global"] * 4},
    "attention_types": [[["global"], 4]],
}
LARGEST = 10**7  # Parameters; a model that is larger took none of the sizes.


def tiny_model(model_type: str, architecture: str) -> Any:
    """A random model of an architecture.

    Raises:
        ValueError: If none can be made of these sizes.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    known = {*inspect.signature(kind.__init__).parameters, *kind.attribute_map}
    try:
        config = kind(**{name: size for name, size in SIZES.items() if name in known})
        with torch.device("meta"):
            outline = AutoModelForCausalLM.from_config(config)
        size = sum(parameter.numel() for parameter in outline.parameters())
        if size > LARGEST or type(outline).__name__ != architecture:
            raise ValueError(f"it is a {type(outline).__name__} of {size:,} parameters")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
        model.eval().requires_grad_(False)
        reference(model)
    except Exception as error:  # Configs check their values in many ways.
        raise ValueError(f"no tiny model: {type(error).__name__}: {error}") from error
    return model


def verdict(model_type: str, architecture: str) -> Abilities | str:
    """What the check says of a tiny model, or why there was nothing to check."""
    try:
        hf_model = tiny_model(model_type, architecture)
    except ValueError as error:
        return str(error)
    expected = reference(hf_model)
    try:
        model = bridge.build(hf_model, None)
    except Exception as error:  # TransformerLens's own.
        reason = f"TransformerLens cannot take it over: {type(error).__name__}: {error}"
        return Abilities(reason, reason, reason)
    return check(bridge, model, expected)


def architectures() -> Iterator[tuple[str, str]]:
    """Each type of config with the architecture that it is made into, by name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    seen: set[str] = set()
    kinds = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    # The config of a model's text alone takes the sizes; that of text and images holds another.
    for model_type, names in sorted(kinds, key=lambda item: (not item[0].endswith("_text"), item)):
        for name in [names] if isinstance(names, str) else names:
            if name in bridge_architectures() and name not in seen:
                seen.add(name)
                yield model_type, name


def main() -> None:
    """Prints the table, and how many architectures can do everything."""
    warnings.simplefilter("ignore")
    able = checked = 0
    print("| architecture | verdict on a tiny random model |\n|---|---|")
    for model_type, architecture in architectures():
        found = verdict(model_type, architecture)
        if isinstance(found, Abilities):
            checked += 1
            able += found == Abilities()
            failed = [name for name, reason in vars(found).items() if reason]
            said = "reads, generates, recycles" if not failed else f"cannot {', '.join(failed)}: "
            found = said + (getattr(found, failed[0]) if failed else "")
        print(f"| {architecture} | {' '.join(found.split())[:160]} |", flush=True)
    print(f"\n{able} of {checked} that could be checked can do everything")


if __name__ == "__main__":
    main()
