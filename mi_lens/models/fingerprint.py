"""A model named by its content, so that a result is never reused for another model."""

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mi_lens.models.checkpoint_files import GENERATION_CONFIG, weight_files
from mi_lens.models.model import Model
from mi_lens.problems.think_kinds import set_kind

CHUNK = 2**22  # Words of eight bytes summed at a time, which takes some 70 MB.
PIECE = 2**24  # Bytes of a file hashed at a time.
# What of a config says where a model runs, what it is called, or what is watched.
NO_CONTENT = {
    "_name_or_path",
    "attn_implementation",
    "checkpoint_index",
    "checkpoint_label_type",
    "checkpoint_value",
    "chunk_size_feed_forward",
    "default_padding_side",
    "device",
    "from_checkpoint",
    "id2label",
    "init_mode",
    "init_weights",
    "initializer_range",
    "label2id",
    "model_name",
    "n_devices",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "seed",
    "tokenizer_name",
    "tokenizer_prepends_bos",
    "torch_dtype",
    "transformers_version",
    "trust_remote_code",
    "ungroup_grouped_query_attention",
    "use_attn_in",
    "use_attn_result",
    "use_cache",
    "use_hook_mlp_in",
    "use_hook_tokens",
    "use_split_qkv_input",
}


PLAIN = (bool, int, float, str, list, tuple, dict, type(None))  # Not dtypes and devices.


def model_fingerprint(model: Model) -> str:
    """A hash of everything that decides what a model computes and how it is asked.

    It covers every byte of every parameter and buffer, the config, the tokens that end a
    generation, the tokenizer and its chat template, and a kind of think block that was set. Where
    the checkpoint lies and on which device the model runs do not matter. The bytes are summed on
    the model's own device, at the speed of its memory, and the sums copied to the host at once.

    It is computed anew at every call: PyTorch does not count changes through `.data` or NumPy, so a
    fingerprint that was kept could be that of other weights. A run makes one and passes it on.

    Returns:
        16 hexadecimal digits. For quantised weights it goes on with how they are quantised, such as
        " (fp8 dequantised)", so that whatever names the model says it.
    """
    digest = blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    tensors = [
        plain
        for name, tensor in sorted(model.state_dict().items())
        for plain in _plain_tensors(name, tensor)
    ]
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    sums = [_checksum(tensor) for _, tensor in tensors]
    for value in torch.stack([each.to(sums[0].device) for each in sums]).tolist() if sums else ():
        digest.update(value.to_bytes(8, "little", signed=True))
    settings = {
        "config": _config(model),
        "ends": sorted(getattr(model, "eos_token_ids", None) or ()),
        "tokenizer": _tokenizer(model.tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    quantization = getattr(model, "quantization", None)
    return digest.hexdigest() + (f" ({quantization})" if quantization else "")


def checkpoint_fingerprint(
    path: Path, tokenizer: Any, dtype: str, quantization: str | None = None
) -> str:
    """A hash of a checkpoint's files, for engines that run it without TransformerLens.

    It covers every byte of the weights, config.json and generation_config.json, or of the GGUF
    file; the tokenizer and its chat template, with a kind of think block that was set; and the
    dtype. Where the checkpoint lies does not matter. Files are read in pieces, not loaded.

    Args:
        path: The checkpoint's folder, or its GGUF file.
        tokenizer: Its tokenizer.
        dtype: The dtype in which the engine runs it, such as "bfloat16".
        quantization: How its weights are quantised, if they are.

    Returns:
        The same form as of `model_fingerprint`, which names the loaded model otherwise.

    Raises:
        FileNotFoundError: If a file of weights, or config.json, is missing.
    """
    files = [path]
    if path.is_dir():
        files = [*weight_files(path), path / "config.json"]
        if (path / GENERATION_CONFIG).is_file():
            files.append(path / GENERATION_CONFIG)
    digest = blake2b(digest_size=8)
    for file in files:
        digest.update(_digest_of(file))
    settings = {"tokenizer": _tokenizer(tokenizer), "dtype": dtype}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest() + (f" ({quantization})" if quantization else "")


def _digest_of(file: Path) -> bytes:
    digest = blake2b()
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
    return digest.digest()


def _plain_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor with its name; or those that a quantised one, of a class of its own, consists of."""
    tensor = tensor.detach()
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if type(tensor) in (Tensor, nn.Parameter) or flatten is None:
        yield name, tensor
        return
    parts, settings = flatten()
    yield f"{name} {type(tensor).__name__} {settings}", torch.zeros(0)
    for part in parts:
        yield from _plain_tensors(f"{name}.{part}", getattr(tensor, part))


def _checksum(tensor: Tensor) -> Int[Tensor, ""]:
    """A sum over a tensor's bytes, in words, each times an odd number that its place decides.

    Arithmetic is modulo 2^64, where an odd factor loses nothing: no single change goes unseen.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    first = 0
    for words in _words(tensor):
        # In place: new tensors would take longer than the arithmetic.
        places = torch.arange(first, first + len(words), device=tensor.device)
        places.mul_(0x61C8864680B583EB)  # Any odd number with bits all over.
        factors = (places >> 29).bitwise_xor_(places).mul_(0x3C79AC492BA7B653).bitwise_or_(1)
        total = total + factors.mul_(words).sum()
        first += len(words)
    return total


def _words(tensor: Tensor) -> Iterator[Int[Tensor, " word"]]:
    """A tensor's values as whole numbers, in logical order and in pieces."""
    if tensor.ndim == 0:
        tensor = tensor[None]
    rows = max(1, CHUNK // max(1, tensor[0].numel())) if len(tensor) else 1
    for part in tensor.split(rows):
        if not part.numel():
            continue
        flat = part.contiguous().reshape(-1)  # Copies a piece of a transposed parameter, not all.
        data = flat.view(torch.uint8) if flat.dtype != torch.bool else flat.to(torch.uint8)
        if data.storage_offset() % 8:  # A view as words must begin at a whole word.
            data = data.clone()
        whole = len(data) - len(data) % 8
        yield from data[:whole].view(torch.int64).split(CHUNK)
        if whole < len(data):
            yield data[whole:].long()


def _config(model: Any) -> dict[str, Any]:
    """The settings of a model that decide what it computes."""
    configs = [model.cfg]
    original = getattr(getattr(model, "original_model", None), "config", None)
    if original is not None:  # A bridge runs the Hugging Face model, whose config decides.
        configs.append(original)
    plain: dict[str, Any] = {}
    for number, config in enumerate(configs):
        settings = config.to_dict() if hasattr(config, "to_dict") else vars(config)
        for name, value in settings.items():
            if name not in NO_CONTENT and isinstance(value, PLAIN):
                plain[f"{number}.{name}"] = value
    return plain


def _tokenizer(tokenizer: Any) -> Any:
    """What decides how text becomes tokens: the tokenizer's own file, its template, its ids.

    A kind of think block that was set, and is not the one found, decides where `Steer` acts.
    """
    if tokenizer is None:
        return None
    fast = getattr(tokenizer, "backend_tokenizer", None)
    words = fast.to_str() if fast is not None else json.dumps(tokenizer.get_vocab())
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    described = [type(tokenizer).__name__, words, tokenizer.chat_template, ends]
    return described if (kind := set_kind(tokenizer)) is None else [*described, kind]
