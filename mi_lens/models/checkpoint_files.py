"""The files of a checkpoint, checked before anything is computed; none of them may run code."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

# safetensors' names of dtypes.
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
GENERATION_CONFIG = "generation_config.json"
GIT_LFS = b"version https://git-lfs"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        ValueError: If the file is no JSON object; the message names it.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not JSON ({pointer(path) or error}); download the file again"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a JSON {type(value).__name__}; expected an object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a checkpoint should have: those of its index, or a single one.

    Raises:
        ValueError: If the index is not one, or names a file outside of the folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{index}: no weight_map; expected a name of a file for every weight")
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.strip("."):
            raise ValueError(
                f"{index}: {name!r} is in {shard!r}; expected the name of a file in {folder}"
            )
    return [folder / shard for shard in sorted(set(shards.values()))]


def require_whole(folder: Path) -> None:
    """Raises unless all files of weights are there and whole, as far as their headers tell.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is cut short, empty, a pointer of Git LFS, or no safetensors at all.
    """
    for file in weight_files(folder):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; weights are read from safetensors only")
        try:
            with safe_open(file, "pt") as opened:
                names = list(opened.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file}: not a whole safetensors file ({pointer(file) or error}); download it "
                "again"
            ) from None
        if not names:
            raise ValueError(f"{file}: holds no weights; download it again")


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The dtype of the checkpoint's first weight; None if it is not in `STORED`."""
    with safe_open(weight_files(folder)[0], "pt") as file:
        name = next(iter(file.keys()))
        return STORED.get(file.get_slice(name).get_dtype())


def require_same_weights(folder: Path, report: dict[str, Any]) -> None:
    """Raises a ValueError unless a model's weights are exactly those of its files.

    Hugging Face leaves weights that are missing at random values, and drops weights that the config
    has no place for, such as the blocks of a deeper model.

    Args:
        folder: The checkpoint.
        report: What Hugging Face's from_pretrained says about loading.
    """
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:
        untied = (
            "; its config.json does not say tie_word_embeddings, which a model without an output "
            "layer of its own needs: download the file with it, or set tie_word_embeddings to true"
        )
        raise ValueError(
            f"{folder}: weights are missing or misshapen: {', '.join(absent[:8])}"
            f"{untied if absent == ['lm_head.weight'] else ''}"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        raise ValueError(
            f"{folder}: {len(unused)} weights have no place in a model of this config.json: "
            f"{', '.join(unused[:4])}{', ...' if len(unused) > 4 else ''}; the config belongs to "
            "another checkpoint"
        )


def require_tied_as_said(folder: Path, hf_model: Any) -> None:
    """Raises a ValueError if embeddings are tied by the config and differ in the weights.

    Hugging Face then believes the weights, and its earlier versions believed the config.
    """
    into, out = hf_model.get_input_embeddings().weight, hf_model.get_output_embeddings().weight
    tied = hf_model.config.get_text_config().tie_word_embeddings
    if tied and out.data_ptr() != into.data_ptr() and not torch.equal(out, into):
        raise ValueError(
            f"{folder}: its config.json says tie_word_embeddings, and its weights have an output "
            "layer that differs from the embeddings; download both again, or set "
            "tie_word_embeddings to false if the weights are right"
        )


def require_tokenizer_fits(folder: Path, tokenizer: Any, vocabulary: int) -> None:
    """Raises a ValueError if a tokenizer is another model's.

    It is if it gives token ids that the model has no embedding for, or has ids for less than half
    of the embeddings. A few embeddings without a token are usual padding.
    """
    if tokenizer is None:
        return
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest + 1 < vocabulary / 2:
        raise ValueError(
            f"{folder}: its tokenizer gives ids up to {largest}, and its model has embeddings for "
            f"{vocabulary}, over twice as many; the two belong to different models"
        )
    if largest >= vocabulary:
        raise ValueError(
            f"{folder}: its tokenizer gives ids up to {largest}, and its model has embeddings "
            f"for {vocabulary}; the two belong to different models"
        )


def pointer(path: Path) -> str:
    """What a file is if it only points to its content; empty for any other file."""
    with path.open("rb") as file:
        start = file.read(len(GIT_LFS))
    if start == GIT_LFS:
        return "a pointer of Git LFS, whose content was never fetched"
    return "" if start else "the file is empty"
