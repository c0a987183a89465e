"""The values of a checkpoint's config.json, checked before a model is built from them.

Hugging Face fills in what is missing, builds a billion layers if asked, and fails deep inside of a
model at the rest, without the file's name.
"""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mi_lens.models.architectures import CONVERTERS

# Sizes, and the largest that is believed; real ones are far smaller.
SIZES = {
    **{"hidden_size": 10**6, "n_embd": 10**6, "head_dim": 10**6},
    **{"intermediate_size": 10**7, "n_inner": 10**7, "vocab_size": 10**7},
    **{"num_hidden_layers": 1000, "n_layer": 1000},
    **{"num_attention_heads": 10**5, "n_head": 10**5, "num_key_value_heads": 10**5},
    **{"max_position_embeddings": 10**9, "n_positions": 10**7, "sliding_window": 10**9},
}
MAY_BE_NULL = {
    *("head_dim", "n_inner", "num_key_value_heads", "sliding_window"),
    *("attn_logit_softcapping", "final_logit_softcapping"),
}
POSITIVE = (
    *("rms_norm_eps", "layer_norm_epsilon", "query_pre_attn_scalar", "rope_theta"),
    *("attn_logit_softcapping", "final_logit_softcapping"),
)
POSITIVE_IN_ROPE = (
    *("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    "original_max_position_embeddings",
)
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def require_possible(config_file: Path, config: dict[str, Any]) -> None:
    """Refuses a config with values that no model can have.

    Args:
        config_file: The file, for the message.
        config: What it holds, of a supported architecture.

    Raises:
        ValueError: If a size is missing or no whole number of a possible size, a number is not
            positive, or the heads do not divide what they share.
    """

    def refuse(name: str, value: Any, expected: str) -> None:
        raise ValueError(
            f"{config_file}: {name} is {value!r}; expected {expected}: download the file again, or "
            "mend it"
        )

    if isinstance(config.get("text_config"), dict):  # a model of text and images
        require_possible(config_file, config["text_config"])
        return
    own = _own_names(config.get("model_type"))
    for name in map(own.get, filter(own.get, NEEDED)):
        if name not in config:
            raise ValueError(f"{config_file}: {name} is missing; download the file again")
    given: dict[str, Any] = {
        k: v for k, v in config.items() if not (v is None and k in MAY_BE_NULL)
    }
    for name in given.keys() & SIZES.keys():
        if type(given[name]) is not int or not 1 <= given[name] <= SIZES[name]:
            refuse(name, given[name], f"a whole number from 1 to {SIZES[name]:,}")
    numbers = {name: given[name] for name in POSITIVE if name in given}
    for place in ("rope_parameters", "rope_scaling"):
        rope = given.get(place)
        rope = rope if isinstance(rope, dict) else {}
        numbers |= {f"{place}.{name}": rope[name] for name in POSITIVE_IN_ROPE if name in rope}
    for name, value in numbers.items():
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            refuse(name, value, "a number above 0")
    for name in ("dtype", "torch_dtype"):
        if not isinstance(config.get(name), str | None):
            refuse(name, config[name], "a name such as 'bfloat16'")
    ends = given.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and end not in range(given.get("vocab_size", 10**7)):
            refuse("eos_token_id", end, "an id of the vocabulary")
    if not CONVERTERS.keys().isdisjoint(config.get("architectures", ())):  # plain attention
        width, heads = own["hidden_size"], own["num_attention_heads"]
        if "head_dim" not in given and given[width] % given[heads]:
            refuse(heads, given[heads], f"a divisor of {width}, {given[width]}")
        groups: int = given.get("num_key_value_heads", given[heads])
        if given[heads] % groups:
            refuse("num_key_value_heads", groups, f"a divisor of {heads}, {given[heads]}")


def _own_names(model_type: Any) -> dict[str, str]:
    """What a kind of config calls each of `NEEDED`; only those that it has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return {name: name for name in NEEDED}
    kind = CONFIG_MAPPING[model_type]
    names = {name: kind.attribute_map.get(name, name) for name in NEEDED}
    has = inspect.signature(kind.__init__).parameters
    return {name: own for name, own in names.items() if own in has}


@contextlib.contextmanager
def blaming(config_file: Path) -> Iterator[None]:
    """Inside, errors of Hugging Face about a config name its file, and are ValueErrors.

    A missing package, a file that cannot be read and a full memory are not the config's fault, and
    NotImplementedError says that a model cannot be built without values.
    """
    try:
        yield
    except (ImportError, OSError, MemoryError, torch.OutOfMemoryError, NotImplementedError):
        raise
    except Exception as error:
        # Its own words for weights of other shapes are a report in the log and a hint for trainers.
        reason = (
            "the weights beside it have other shapes than it says; the two belong to different "
            "checkpoints"
            if "ignore_mismatched_sizes" in str(error)
            else f"no model can be built from it ({type(error).__name__}: {error})"
        )
        raise ValueError(f"{config_file}: {reason}") from error
