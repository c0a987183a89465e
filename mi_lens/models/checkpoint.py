"""Where a checkpoint lies, and whether it can be loaded: looked at before gigabytes are read."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mi_lens.models.architectures import ARCHITECTURES

# As safetensors calls them.
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# The models of the two papers, small and large: what a mistyped name is compared with.
HUB_IDS = (
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "Qwen/QwQ-32B",
    "Qwen/QwQ-32B-Preview",
    "Qwen/Qwen2.5-Math-1.5B",
    "Qwen/Qwen2.5-Math-7B",
    "Qwen/Qwen2.5-14B",
    "Qwen/Qwen2.5-32B",
    "meta-llama/Llama-3.1-8B",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TEXT_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
DOWNLOADED = [*TEXT_FILES, "*.safetensors"]
NOT_DOWNLOADED = ["consolidated*", "original/*", "onnx/*"]  # the same weights once more


def find_folder(name: str | Path, wanted: Sequence[str] = DOWNLOADED) -> Path:
    from mi_lens.models.pocket import CHECKPOINTS

    if name in CHECKPOINTS:
        return CHECKPOINTS[str(name)]
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {str(name)!r} to load a model from")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _download(name, wanted)
    near = _near(name, [*CHECKPOINTS, *HUB_IDS])
    raise ValueError(
        f"there is no model {name!r}{near}. A name is one of {sorted(CHECKPOINTS)}, a Hugging Face "
        "id (owner/model), or a folder with config.json and safetensors"
    )


def _near(name: str, known: list[str]) -> str:
    """Near names, with or without their owner, as an end of a sentence."""
    by_key = {key.lower(): full for full in known for key in (full, full.split("/")[-1])}
    keys = difflib.get_close_matches(name.lower(), by_key, n=3)
    near = list(dict.fromkeys(by_key[key] for key in keys))
    return f"; near: {', '.join(near)}" if near else ""


def _download(name: str, wanted: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(
            snapshot_download(name, allow_patterns=[*wanted], ignore_patterns=NOT_DOWNLOADED)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"{name!r} is no folder here, and the Hugging Face hub did not give it: {reason}"
            f"{_near(name, list(HUB_IDS))}. Check the name, the connection, and for a gated model "
            "`hf auth login`"
        ) from error


def check_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint's config; refuses what cannot be loaded before gigabytes of it are read."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{config_file} is missing: {folder} is no Hugging Face checkpoint")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or [None])[0]
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{config_file}: architecture {architecture!r} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    if "quantization_config" in config:
        raise ValueError(
            f"{config_file}: the weights are quantized; use the unquantized checkpoint"
        )
    for file in weight_files(folder):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; weights are read from safetensors only")
    return config


def weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / shard for shard in sorted(set(shards))]


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The dtype of the checkpoint's first weight; None if it is none that a model can be in."""
    with safe_open(weight_files(folder)[0], "pt") as file:
        name = next(iter(file.keys()))
        return STORED.get(file.get_slice(name).get_dtype())
