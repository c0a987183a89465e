"""Finds a checkpoint's folder and checks that it can be loaded, before its weights are read."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_lens.models.architectures import backends_of
from mi_lens.models.checkpoint_files import read_json
from mi_lens.models.config_values import require_possible
from mi_lens.models.quantization import quantization_of

# The models of docs/reproduce.md; a mistyped name is compared with these.
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
    "Qwen/Qwen3-4B-Thinking-2507",
    "openai/gpt-oss-20b",
    "allenai/Olmo-3-1025-7B",
    "allenai/Olmo-3-7B-Think-SFT",
    "allenai/Olmo-3-7B-Think-DPO",
    "allenai/Olmo-3-7B-Think",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TEXT_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
DOWNLOADED = [*TEXT_FILES, "*.safetensors"]
NOT_DOWNLOADED = ["consolidated*", "original/*", "onnx/*"]  # copies of the same weights


def find_folder(name: str | Path, patterns: Sequence[str] = DOWNLOADED) -> Path:
    """The folder of a checkpoint; a Hugging Face id is downloaded first.

    Args:
        name: A built-in model, a Hugging Face id, or a folder.
        patterns: Which files to download, as glob patterns.

    Raises:
        ValueError: If the name is none of these.
        FileNotFoundError: If the name is a path and there is no such folder.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    from mi_lens.models.pocket import CHECKPOINTS

    if not str(name).strip():
        raise ValueError(f"model {name!r}: expected a name, a Hugging Face id or a folder")
    if name in CHECKPOINTS:
        return CHECKPOINTS[str(name)]
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {str(name)!r} to load a model from")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _download(name, patterns)
    hint = _similar_names(name, [*CHECKPOINTS, *HUB_IDS])
    raise ValueError(
        f"there is no model {name!r}{hint}. A name is one of {sorted(CHECKPOINTS)}, a Hugging Face "
        "id (owner/model), or a folder with config.json and safetensors"
    )


def _similar_names(name: str, known: list[str]) -> str:
    """The end of an error message that lists known names like this one; "" if there are none.

    Names are compared with and without their owner.
    """
    by_key = {key.lower(): full for full in known for key in (full, full.split("/")[-1])}
    keys = difflib.get_close_matches(name.lower(), by_key, n=3)
    similar = list(dict.fromkeys(by_key[key] for key in keys))
    return f"; near: {', '.join(similar)}" if similar else ""


def _download(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(
            snapshot_download(name, allow_patterns=[*patterns], ignore_patterns=NOT_DOWNLOADED)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"there is no folder {name!r}, and the Hugging Face hub did not give it: {reason}"
            f"{_similar_names(name, list(HUB_IDS))}. Check the name and the connection; a gated "
            "model also needs `hf auth login`"
        ) from error


def check_config(folder: Path) -> dict[str, Any]:
    """Reads a checkpoint's config and checks that it is of a model that can be loaded.

    Raises:
        FileNotFoundError: If the config is missing.
        ValueError: If the architecture or the way in which the weights are quantised is not
            supported, or a value of the config is impossible.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(
            f"{config_file} is missing: {folder} is not a Hugging Face checkpoint"
        )
    config = read_json(config_file)
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    try:
        backends_of(architecture)
    except ValueError as error:
        raise ValueError(f"{config_file}: {error}") from None
    quantization_of(config_file, config)
    require_possible(config_file, config)
    return config
