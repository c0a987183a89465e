"""A random Qwen2 of any size, written file by file, with a tokenizer that has a think block."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen2Config

from mi_lens.models.pocket import CHECKPOINTS


def write_checkpoint(folder: Path, config: dict[str, Any], tokens: int, shard: float) -> None:
    """Writes a checkpoint in bfloat16.

    Args:
        folder: An empty folder.
        config: What Qwen2Config takes.
        tokens: Number of tokens of the tokenizer; further embeddings are padding.
        shard: Bytes of a file at most, and of the weights that are in memory at once.
    """
    whole = Qwen2Config(**config, architectures=["Qwen2ForCausalLM"], dtype="bfloat16")
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(whole).state_dict()
    draws = torch.Generator().manual_seed(0)

    def drawn(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.full(shape, float("norm" in name), dtype=torch.bfloat16)
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=draws)

    files: dict[str, str] = {}
    for number, names in enumerate(_files(outline, shard)):
        file = f"model-{number:05}.safetensors"
        save_file({n: drawn(n, outline[n].shape) for n in names}, folder / file, {"format": "pt"})
        files |= dict.fromkeys(names, file)
    _write_tokenizer(folder, tokens)
    end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    whole.eos_token_id = end
    whole.save_pretrained(folder)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _files(outline: dict[str, Any], shard: float) -> Iterator[list[str]]:
    """The names of weights, file by file."""
    names: list[str] = []
    size = 0
    for name, weight in outline.items():
        if names and size + 2 * weight.numel() > shard:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * weight.numel()
    yield names


def _write_tokenizer(folder: Path, tokens: int) -> None:
    """The pocket reasoner's tokenizer, with tokens that no text has up to the wanted number."""
    for file in CHECKPOINTS["pocket-reasoner"].iterdir():
        if "token" in file.name or file.name in ("chat_template.jinja", "generation_config.json"):
            shutil.copy(file, folder)
    rules = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in rules["added_tokens"]}
    unused = range(1 + max(special.values()), tokens)
    rules["model"]["vocab"] |= special | {f"<unused {number}>": number for number in unused}
    (folder / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
