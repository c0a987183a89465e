"""Loads a built-in model, a Hugging Face id or a folder, with either backend."""

from pathlib import Path
from typing import Any

import torch

from mi_lens.models.backends.lookup import available, get_backend
from mi_lens.models.checkpoint import (
    TEXT_FILES,
    TOKENIZER_FILES,
    check_checkpoint,
    check_config,
    find_folder,
)
from mi_lens.models.checkpoint_files import (
    require_same_weights,
    require_tokenizer_fits,
    stored_dtype,
)
from mi_lens.models.config_values import blaming
from mi_lens.problems.think_kinds import AUTO, require_think_kind, use_think_kind

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
    think: str = AUTO,
) -> Any:
    """Load a model with its weights as they were trained: nothing is folded or centred.

    Loading needs as much host memory as the larger of the checkpoint and the model. If the dtype
    changes, it also needs the size of one of the checkpoint's files. If the dtype stays, the files
    are mapped into memory and read when their weights are first used: do not change the files
    while the model is in use.

    Args:
        name: "pocket-reasoner" or "pocket-base"; a Hugging Face id, which is downloaded once; or
            a folder with `config.json` and safetensors.
        backend: "hooked" for a HookedTransformer, "bridge" for a TransformerBridge, "auto" for
            the first of the two that the installed TransformerLens has.
        dtype: float32, float64 or bfloat16, as a torch dtype or by name. The default on a GPU is
            the checkpoint's own dtype, except that float16 becomes float32, because the residual
            stream can exceed the range of float16. The default on a CPU is float32, because
            bfloat16 is slow there.
        device: By default "cuda" if there is a GPU, else "cpu".
        n_devices: Number of GPUs over which to spread the layers, evenly by memory. More than one
            needs backend "bridge" and no `device`.
        think: How the model marks its thinking: a kind of
            `mi_lens.problems.think_kinds.THINK_KINDS`, such as "think" or "none"; "auto" finds it
            from the tokenizer and its chat template.

    Returns:
        The model in evaluation mode, with parameters that need no gradients. `model.tokenizer` is
        its tokenizer, which pads on the left, or None if the checkpoint has no tokenizer files.
        `model.eos_token_ids` are the tokens that end a generation.

    Raises:
        ValueError: If the name, backend, dtype, device or architecture is not supported, there are
            fewer GPUs than `n_devices`, the tokenizer cannot write the marks of the kind `think`,
            or the checkpoint's files are damaged or do not fit each other.
        FileNotFoundError: If the folder or one of its files is missing.
        OSError: If the Hugging Face hub cannot be reached, or does not give the model.
    """
    chosen_backend = get_backend(available()[0] if backend == "auto" else backend)
    torch_device = _parse_device(device)
    device_settings = _device_settings(chosen_backend.name, device, n_devices)
    given_dtype = None if dtype is None else _parse_dtype(dtype)
    require_think_kind(think)
    folder = find_folder(name)
    torch_dtype = given_dtype or _default_dtype(check_checkpoint(folder), torch_device)
    vocabulary = _load_config(folder).get_text_config().vocab_size
    tokenizer = _load_tokenizer(folder, think)
    require_tokenizer_fits(folder, tokenizer, vocabulary)
    hf_model = _load_weights(folder, torch_dtype, torch_device, device_settings)
    # Not the tokenizer's end of text: chat models end their turns with other tokens.
    end_ids = hf_model.generation_config.eos_token_id
    model = chosen_backend.build(hf_model, tokenizer)
    model.eos_token_ids = frozenset(end_ids if isinstance(end_ids, list) else [end_ids]) - {None}
    if strange := [end for end in model.eos_token_ids if end not in range(vocabulary)]:
        raise ValueError(
            f"{folder / 'generation_config.json'}: eos_token_id is {strange[0]!r}; expected ids of "
            f"the vocabulary, from 0 to {vocabulary - 1}"
        )
    return model


def load_outline(name: str | Path, backend: str = "auto", think: str = AUTO) -> Any:
    """A model without its weights: it has the checkpoint's hooks and tokenizer, but cannot run.

    It tells which settings fit a model, from the checkpoint's small files only. Its tensors have
    shapes and no values.

    Args:
        name: As in `load`; for a Hugging Face id only the small files are downloaded.
        backend: As in `load`.
        think: As in `load`.

    Raises:
        ValueError: If the name, backend, architecture or kind of think block is not supported.
        FileNotFoundError: If the folder or its config is missing.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    from transformers import AutoModelForCausalLM

    chosen_backend = get_backend(available()[0] if backend == "auto" else backend)
    folder = find_folder(name, TEXT_FILES)
    check_config(folder)
    config, tokenizer = _load_config(folder), _load_tokenizer(folder, think)

    def build(device: str) -> Any:
        with torch.device(device), blaming(folder / "config.json"):
            hf_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            return chosen_backend.build(hf_model, tokenizer)

    try:
        return build("meta")
    except NotImplementedError:  # the bridge splits GPT-2's fused projections, which needs values
        return build("cpu")


def load_tokenizer(name: str | Path, think: str = AUTO) -> Any:
    """Load the tokenizer that `load` gives the model, without the model.

    Args:
        name: As in `load`; for a Hugging Face id only the small files are downloaded.
        think: As in `load`.

    Raises:
        ValueError: If there is no model of this name, or no such kind of think block.
        FileNotFoundError: If the folder is missing, or has no tokenizer files.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    folder = find_folder(name, TEXT_FILES)
    tokenizer = _load_tokenizer(folder, think)
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


def _device_settings(backend: str, device: Any, n_devices: int) -> dict[str, Any]:
    """The arguments with which Hugging Face spreads the layers; none for one device."""
    if n_devices == 1:
        return {}
    if n_devices < 1:
        raise ValueError(f"n_devices={n_devices}: expected at least 1")
    if backend != "bridge" or device is not None:
        raise ValueError(
            f"n_devices={n_devices} with backend {backend!r} and device {device!r}: layers are "
            "spread over GPUs by backend='bridge' only, which chooses the GPUs itself (leave "
            "device out); backend 'hooked' runs on one device"
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


def _load_config(folder: Path) -> Any:
    """Hugging Face's config of a checkpoint.

    Raises:
        ValueError: If the config is impossible, or asks for code of the checkpoint's own.
    """
    from transformers import AutoConfig

    with blaming(folder / "config.json"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _load_tokenizer(folder: Path, think: str) -> Any:
    """The tokenizer, read from `tokenizer.json` if there is one; None without tokenizer files.

    AutoTokenizer may build a tokenizer from the name of its class or of the model's family. That
    one can split text differently and so give other token ids than the model was trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    require_think_kind(think)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    exact = (folder / "tokenizer.json").is_file()
    kind = PreTrainedTokenizerFast if exact else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    except Exception as error:  # Its parts raise errors of many kinds, without the file's name.
        raise ValueError(
            f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {error})"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # any token would do, because padding is masked
    use_think_kind(tokenizer, think)
    return tokenizer


def _load_weights(
    folder: Path, dtype: torch.dtype, device: torch.device, device_settings: dict[str, Any]
) -> Any:
    """The Hugging Face model.

    Weights are first read in the dtype in which they are stored, so that the files are only mapped
    into memory. Then each weight is converted to the given dtype and device in turn. The memory of
    a file is freed with the last of its weights.
    """
    from transformers import AutoModelForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained  # its annotation omits the loading info
    with blaming(folder / "config.json"):
        model, report = read(
            folder,
            dtype=stored_dtype(folder) or dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",
            output_loading_info=True,
            **device_settings,
        )
    require_same_weights(folder, report)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(parameter.device if device_settings else device, dtype)
    model.config.dtype = dtype
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "scalar_embed_scale"):  # Gemma's; it was rounded to the stored dtype
        scale = torch.tensor(embedding.scalar_embed_scale, dtype=dtype)
        embedding.embed_scale = scale.to(embedding.embed_scale.device)
    # Buffers keep their own dtypes. If layers are spread, the buffers are already in place.
    return model if device_settings else model.to(device)
