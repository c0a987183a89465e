"""Loading a model: the built-in reasoner, a Hugging Face id, or a folder, by either backend."""

from pathlib import Path
from typing import Any

import torch

from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.checkpoint import (
    TEXT_FILES,
    TOKENIZER_FILES,
    check_checkpoint,
    find_folder,
    stored_dtype,
)

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
}


def load(
    name: str | Path,
    *,
    backend: str = "auto",
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    n_devices: int = 1,
) -> Any:
    """Load a model with its weights as trained: nothing folded, nothing centred.

    Memory of the host: the larger of the checkpoint and the model, and where the dtype changes one
    of the checkpoint's files besides. In the checkpoint's own dtype the model *is* its files,
    mapped, and its pages are read when they are first used: do not change the files meanwhile.

    Args:
        name: "pocket-reasoner" or "pocket-base"; a Hugging Face id, which is downloaded once; or
            a folder with `config.json` and safetensors.
        backend: "hooked" for a HookedTransformer, "bridge" for a TransformerBridge, "auto" for
            the first of the two that the installed TransformerLens has.
        dtype: float32, float64 or bfloat16, as torch dtype or by name. By default the
            checkpoint's own on a GPU, and float32 on a CPU, where bfloat16 is slow, or where the
            checkpoint is in float16, whose range a residual stream can leave.
        device: By default "cuda" where there is one, else "cpu".
        n_devices: Over how many GPUs the layers are spread, evenly by memory; more than one needs
            backend "bridge" and no `device`.

    Returns:
        The model in evaluation mode, its parameters without gradients, with its tokenizer (padding
        on the left) as `model.tokenizer`; None where the checkpoint has no tokenizer files. The
        tokens that end a generation are `model.eos_token_ids`.

    Raises:
        ValueError: The name, backend, dtype, device or architecture is not supported, or there
            are not so many GPUs.
        FileNotFoundError: The folder or one of its files is missing.
        OSError: The Hugging Face hub cannot be reached, or does not give the model.
    """
    engine = get_backend(available()[0] if backend == "auto" else backend)
    where = _parse_device(device)
    spread = _spread(engine.name, device, n_devices)
    asked = None if dtype is None else _parse_dtype(dtype)
    folder = find_folder(name)
    config = check_checkpoint(folder)
    tokenizer = _load_tokenizer(folder)
    weights = _load_weights(folder, asked or _default_dtype(config, where), where, spread)
    # Chat models end their turns with other tokens than the tokenizer's end of text.
    ends = weights.generation_config.eos_token_id
    model = engine.build(weights, tokenizer)
    model.eos_token_ids = frozenset(ends if isinstance(ends, list) else [ends]) - {None}
    return model


def load_tokenizer(name: str | Path) -> Any:
    """Load the tokenizer that `load` would put beside the model, without the model.

    Args:
        name: As in `load`; of a Hugging Face id only the small files are downloaded.

    Raises:
        ValueError: There is no such name.
        FileNotFoundError: The folder is missing, or has no tokenizer files.
        OSError: The Hugging Face hub cannot be reached, or does not give the files.
    """
    folder = find_folder(name, TEXT_FILES)
    tokenizer = _load_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(
            f"{folder} has no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}"
        )
    return tokenizer


def _parse_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {str(device)!r} is not available here: {error}") from error
    return torch.device(device)


def _spread(backend: str, device: Any, n_devices: int) -> dict[str, Any]:
    """What Hugging Face is told so that it spreads the layers; nothing for one device."""
    if n_devices == 1:
        return {}
    if n_devices < 1:
        raise ValueError(f"n_devices={n_devices}: expected at least 1")
    if backend != "bridge" or device is not None:
        raise ValueError(
            f"n_devices={n_devices} with backend {backend!r} and device {device!r}: layers are "
            "spread over GPUs by backend='bridge' only, which chooses them itself (leave device "
            "out); backend 'hooked' runs on one device"
        )
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    device_map, max_memory = resolve_device_map(n_devices, None, None)
    return {"device_map": device_map, "max_memory": max_memory}


def _parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    parsed = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if parsed is None or parsed not in DTYPES.values():
        raise ValueError(f"dtype {dtype!r} is not supported; choose one of {list(DTYPES)}")
    return parsed


def _default_dtype(config: dict[str, Any], device: torch.device) -> torch.dtype:
    own = config.get("dtype") or config.get("torch_dtype") or "float32"
    return torch.float32 if device.type == "cpu" else DTYPES.get(own, torch.float32)


def _load_tokenizer(folder: Path) -> Any:
    """The tokenizer, as its `tokenizer.json` says where there is one.

    AutoTokenizer may rebuild a tokenizer by the name of its class or of the model's family, with
    another splitting of the text into words, and so other token ids than the model was trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    exact = (folder / "tokenizer.json").is_file()
    kind = PreTrainedTokenizerFast if exact else AutoTokenizer
    tokenizer = kind.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it pads, so any token would do
    return tokenizer


def _load_weights(
    folder: Path, dtype: torch.dtype, device: torch.device, spread: dict[str, Any]
) -> Any:
    """The Hugging Face model.

    Weights are read in the dtype that they are stored in, so that they are the files themselves,
    mapped into memory, and brought to the wanted dtype and device one by one: a file is let go with
    the last of its weights.
    """
    from transformers import AutoModelForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained  # its annotation forgets the loading info
    model, report = read(
        folder,
        dtype=stored_dtype(folder) or dtype,
        use_safetensors=True,
        attn_implementation="eager",
        output_loading_info=True,
        **spread,
    )
    absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if absent:  # they would be left at random values
        raise ValueError(f"{folder}: weights are missing or of another shape: {', '.join(absent)}")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(parameter.device if spread else device, dtype)
    model.config.dtype = dtype
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "scalar_embed_scale"):  # Gemma's, rounded to the dtype it was read in
        scale = torch.tensor(embedding.scalar_embed_scale, dtype=dtype)
        embedding.embed_scale = scale.to(embedding.embed_scale.device)
    # The buffers have dtypes of their own; where layers are spread all are in their places.
    return model if spread else model.to(device)
