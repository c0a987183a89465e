"""Finds a checkpoint by its name: its folder, or its GGUF file."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from mi_lens.models.smollm2 import smollm2_file

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
TEXT_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
DOWNLOADED = [*TEXT_FILES, "*.safetensors"]
HUB_GGUF = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+\.gguf)")
NOT_DOWNLOADED = ["consolidated*", "original/*", "onnx/*"]  # copies of the same weights


def find_checkpoint(
    name: str | Path, gguf_file: str | None = None, patterns: Sequence[str] = DOWNLOADED
) -> Path:
    """The folder of a checkpoint, or its GGUF file; what is on the hub is downloaded first.

    Args:
        name: A built-in model, a Hugging Face id, a folder, or a GGUF file: its path, or
            "owner/model/file.gguf" on the hub.
        gguf_file: The GGUF file in the folder or the hub's repository, instead of safetensors.
        patterns: Which files to download of a checkpoint that is no GGUF file, as glob patterns.

    Raises:
        ValueError: If the name is none of these, or several GGUF files could be meant.
        FileNotFoundError: If the name is a path and there is no such folder or file, or the model
            comes with a package that is not installed.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    if not str(name).strip():
        raise ValueError(f"model {name!r}: expected a name, a Hugging Face id or a folder")
    if name == "smollm2" and gguf_file is None:
        return smollm2_file()
    if gguf_file is None and (Path(name).is_file() or Path(name).suffix == ".gguf"):
        on_hub = HUB_GGUF.fullmatch(str(name))
        if isinstance(name, Path) or Path(name).exists() or on_hub is None:
            return Path(name)
        name, gguf_file = on_hub["id"], on_hub["file"]
    if gguf_file is not None:
        return _find_folder(name, [gguf_file]) / gguf_file
    folder = _find_folder(name, patterns)
    return _only_gguf(folder) or folder


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds no other checkpoint; None if there is none."""
    files = [] if (folder / "config.json").is_file() else sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"{folder} holds {len(files)} GGUF files and no config.json: say which, as "
            f"gguf_file={files[0].name!r} or as the path to it"
        )
    return files[0] if files else None


def _find_folder(name: str | Path, patterns: Sequence[str]) -> Path:
    from mi_lens.models.pocket import CHECKPOINTS

    if name in CHECKPOINTS:
        return CHECKPOINTS[str(name)]
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {str(name)!r} to load a model from")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _download(name, patterns)
    built_in = sorted([*CHECKPOINTS, "smollm2"])
    raise ValueError(
        f"there is no model {name!r}{_similar_names(name, [*built_in, *HUB_IDS])}. A name is one "
        f"of {built_in}, a Hugging Face id (owner/model), a folder with config.json and "
        "safetensors, or a GGUF file"
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
