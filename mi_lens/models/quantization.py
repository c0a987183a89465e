"""Checkpoints with quantised weights: what they need, and how a loaded model says that it is one.

Hugging Face's quantisers read them, each with its own package. Whatever it reads, the bridge runs:
it calls Hugging Face's own layers, and no weight is touched. Where a method has no layers for the
device, Hugging Face makes plain weights of the rounded ones, once and for all ("dequantised").
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The bytes of a float that is no code for another number.
PLAIN_BYTES = 2


def quantization_of(config_file: Path, config: dict[str, Any]) -> str | None:
    """The method by which a checkpoint's weights are quantised; None for plain weights.

    Args:
        config_file: The checkpoint's config, for the message.
        config: What it holds.

    Returns:
        Hugging Face's name of the method: "fp8", "mxfp4", "awq", "bitsandbytes_4bit" and so on.

    Raises:
        ValueError: If the config does not say the method, or Hugging Face knows none of that name.
    """
    settings = config.get("quantization_config")
    if settings is None:
        return None
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    settings = settings if isinstance(settings, dict) else {}
    method = settings.get("quant_method")
    if method in (None, "bitsandbytes"):
        bits = [bits for bits in ("4bit", "8bit") if settings.get(f"load_in_{bits}")]
        method = f"bitsandbytes_{bits[0]}" if bits else method
    if not isinstance(method, str) or method not in AUTO_QUANTIZER_MAPPING:
        raise ValueError(
            f"{config_file}: the weights are quantised by {method!r} (quantization_config."
            f"quant_method); Hugging Face reads {', '.join(sorted(AUTO_QUANTIZER_MAPPING))}: use "
            "one of these, or the unquantised checkpoint"
        )
    return method


def require_quantizer(
    config_file: Path, config: dict[str, Any], method: str, device: torch.device
) -> None:
    """Raises unless Hugging Face can read a quantised checkpoint here; nothing is read for it.

    Args:
        config_file: The checkpoint's config, for the message.
        config: What it holds.
        method: Its `quantization_of`.
        device: Where the model is to run.

    Raises:
        ImportError: If a package is missing; the message says how to install it.
        ValueError: If the method does not work on this machine, for Hugging Face's reason.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    what = f"{config_file}: the weights are quantised by {method!r}, and "
    instead = "; or use the unquantised checkpoint"
    try:
        settings = dict(config["quantization_config"])
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantised=True)
        quantizer.validate_environment(device_map={"": device})
    except ImportError as error:
        named = f" (pip install {error.name.split('.')[0]})" if error.name else ""
        raise ImportError(f"{what}a package is missing: {error}{named}{instead}") from error
    except Exception as error:  # Each method has errors of its own.
        raise ValueError(
            f"{what}cannot be read on {device.type} here: {error or type(error).__name__}{instead}"
        ) from error


@torch.no_grad()
def complete(hf_model: Any) -> None:
    """Completes the layers that a quantiser completes in the first pass, before hooks are in."""
    if all(map(is_plain, hf_model.modules())):
        return
    for module in hf_model.modules():
        # bitsandbytes packs codes anew for some CPUs, and then state_dict() spoils them (0.50.2).
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    hf_model(torch.zeros(1, 1, dtype=torch.long, device=hf_model.device))


def is_plain(module: nn.Module) -> bool:
    """Whether a module's own parameters and buffers are numbers as they are, and not codes."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return all(_is_plain(tensor) for tensor in own)


def _is_plain(tensor: Tensor) -> bool:
    plain_class = type(tensor.data) is Tensor
    return plain_class and tensor.is_floating_point() and tensor.itemsize >= PLAIN_BYTES


def description_of(hf_model: Any, method: str) -> str:
    """How a loaded model's weights are quantised: "awq", or "fp8 dequantised" if now plain."""
    kept = not all(map(is_plain, hf_model.modules()))
    return method if kept else f"{method} dequantised"
