"""Loads a built-in model, a Hugging Face id or a folder, with either backend."""

from pathlib import Path
from typing import Any

import torch

from mi_lens.models.backends.lookup import get_backend
from mi_lens.models.checkpoint import (
    TEXT_FILES,
    TOKENIZER_FILES,
    check_config,
    find_folder,
)
from mi_lens.models.checkpoint_files import (
    read_json,
    require_same_weights,
    require_tied_as_said,
    require_tokenizer_fits,
    require_weights,
    stored_dtype,
)
from mi_lens.models.config_values import blaming
from mi_lens.models.placement import (
    choose_backend,
    default_dtype,
    parse_device,
    parse_dtype,
    placement,
)
from mi_lens.models.quantization import (
    complete,
    description_of,
    is_plain,
    quantization_of,
    require_quantizer,
)
from mi_lens.models.self_check import check, reference


def load(
    name: str | Path,
    *,
    backend: str = "auto",
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    n_devices: int = 1,
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
            the first of the two that the installed TransformerLens has for this model; only the
            bridge takes quantised weights.
        dtype: float32, float64, bfloat16 or float16, as a torch dtype or by name. The default on a
            GPU is the checkpoint's own dtype, except that float16 becomes float32, because a
            residual stream can exceed its range; states that do are refused, never returned as
            infinity or NaN. The default on a CPU is float32, because narrower dtypes are slow
            there. Quantised weights stay as they are: then the dtype is that of all other weights
            and of the states, and its default is the checkpoint's own everywhere.
        device: By default "cuda" if there is a GPU, else "cpu".
        n_devices: Number of GPUs over which to spread the layers, evenly by memory. More than one
            needs backend "bridge" and no `device`.

    Returns:
        The model in evaluation mode, with parameters that need no gradients. `model.tokenizer` is
        its tokenizer, which pads on the left, or None if the checkpoint has no tokenizer files.
        `model.eos_token_ids` are the tokens that end a generation. `model.abilities` says what a
        check on a few random tokens found: whether the model can be read, generate and recycle
        (`mi_lens.models.self_check`); what it cannot is refused with the reason when it is asked
        for. `model.quantization` says how its weights are quantised, as its fingerprint does
        (`mi_lens.models.quantization`); None if they are not.

    Raises:
        ValueError: If the name, backend, dtype, device or architecture is not supported, there are
            fewer GPUs than `n_devices`, or the checkpoint's files are damaged or do not fit each
            other.
        FileNotFoundError: If the folder or one of its files is missing.
        ImportError: If the weights are quantised in a way that needs a package.
        OSError: If the Hugging Face hub cannot be reached, or does not give the model.
    """
    if backend != "auto":
        get_backend(backend)
    torch_device = parse_device(device)
    given_dtype = None if dtype is None else parse_dtype(dtype)
    folder = find_folder(name, TEXT_FILES)
    config = check_config(folder)
    hf_config = _load_config(folder)
    quantization = quantization_of(folder / "config.json", config)
    chosen_backend = choose_backend(folder, backend, config, hf_config)
    device_settings = placement(chosen_backend.name, device, n_devices)
    if quantization:
        require_quantizer(folder / "config.json", config, quantization, torch_device)
        device_settings = device_settings or {"device_map": {"": torch_device}}
    folder = find_folder(name)  # only now are the weights downloaded
    require_weights(folder)
    torch_dtype = given_dtype or default_dtype(config, torch_device)
    vocabulary = hf_config.get_text_config().vocab_size
    tokenizer = _load_tokenizer(folder)
    require_tokenizer_fits(folder, tokenizer, vocabulary)
    hf_model = _load_weights(folder, torch_dtype, torch_device, device_settings)
    if quantization:
        quantization = description_of(hf_model, quantization)
    # Not the tokenizer's end of text: chat models end their turns with other tokens.
    end_ids = hf_model.generation_config.eos_token_id
    try:
        expected = reference(hf_model)
    except RuntimeError as error:  # Layers made for another dtype.
        raise ValueError(
            f"{folder}: Hugging Face's own model does not run in {torch_dtype}: {error}"
            f"{'; leave dtype out' if quantization else ''}"
        ) from error
    model = chosen_backend.build(hf_model, tokenizer)
    model.quantization = quantization
    model.abilities = check(chosen_backend, model, expected)
    model.eos_token_ids = frozenset(end_ids if isinstance(end_ids, list) else [end_ids]) - {None}
    if strange := [end for end in model.eos_token_ids if end not in range(vocabulary)]:
        raise ValueError(
            f"{folder / 'generation_config.json'}: eos_token_id is {strange[0]!r}; expected ids of "
            f"the vocabulary, from 0 to {vocabulary - 1}"
        )
    return model


def load_outline(name: str | Path, backend: str = "auto") -> Any:
    """A model without its weights: it has the checkpoint's hooks and tokenizer, but cannot run.

    It tells which settings fit a model, from the checkpoint's small files only. Its tensors have
    shapes and no values.

    Args:
        name: As in `load`; for a Hugging Face id only the small files are downloaded.
        backend: As in `load`.

    Raises:
        ValueError: If the name, backend or architecture is not supported.
        FileNotFoundError: If the folder or its config is missing.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    from transformers import AutoModelForCausalLM

    if backend != "auto":
        get_backend(backend)
    folder = find_folder(name, TEXT_FILES)
    checked = check_config(folder)
    config, tokenizer = _load_config(folder), _load_tokenizer(folder)
    chosen_backend = choose_backend(folder, backend, checked, config)

    def build(device: str) -> Any:
        with torch.device(device), blaming(folder / "config.json"):
            hf_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            if device == "meta" and hasattr(hf_model, "set_experts_implementation"):
                hf_model.set_experts_implementation("batched_mm")  # Others look at values.
            return chosen_backend.build(hf_model, tokenizer)

    try:
        return build("meta")
    except NotImplementedError:  # the bridge splits GPT-2's fused projections, which needs values
        return build("cpu")


def load_tokenizer(name: str | Path) -> Any:
    """Load the tokenizer that `load` gives the model, without the model.

    Args:
        name: As in `load`; for a Hugging Face id only the small files are downloaded.

    Raises:
        ValueError: If there is no model of this name.
        FileNotFoundError: If the folder is missing, or has no tokenizer files.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    folder = find_folder(name, TEXT_FILES)
    tokenizer = _load_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(
            f"{folder} has no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}"
        )
    return tokenizer


def _load_config(folder: Path) -> Any:
    """Hugging Face's config of a checkpoint.

    Raises:
        ValueError: If the config is impossible, or asks for code of the checkpoint's own.
    """
    from transformers import AutoConfig

    with blaming(folder / "config.json"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _load_tokenizer(folder: Path) -> Any:
    """The tokenizer, read from `tokenizer.json` if there is one; None without tokenizer files.

    AutoTokenizer may build a tokenizer from the name of its class or of the model's family. That
    one can split text differently and so give other token ids than the model was trained on.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

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
    return tokenizer


def _load_weights(
    folder: Path, dtype: torch.dtype, device: torch.device, device_settings: dict[str, Any]
) -> Any:
    """The Hugging Face model.

    Weights are first read in the dtype in which they are stored, so that the files are only mapped
    into memory. Then each weight is converted to the given dtype and device in turn. The memory of
    a file is freed with the last of its weights. Quantised weights are read, placed and converted
    by Hugging Face's quantiser, and their modules stay as it leaves them.
    """
    from transformers import AutoModelForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained  # its annotation omits the loading info
    plain = quantization_of(folder / "config.json", read_json(folder / "config.json")) is None
    with blaming(folder / "config.json"):
        model, report = read(
            folder,
            dtype=(stored_dtype(folder) if plain else None) or dtype,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="eager",
            output_loading_info=True,
            **device_settings,
        )
    require_same_weights(folder, report)
    require_tied_as_said(folder, model)
    if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # The fused kernel has no float64.
    if not plain:
        complete(model)
    for module in model.modules():
        for parameter in module.parameters(recurse=False) if plain or is_plain(module) else ():
            place = parameter.device if device_settings else device
            parameter.data = parameter.data.to(place, dtype)
    model.config.dtype = dtype
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "scalar_embed_scale"):  # Gemma's; it was rounded to the stored dtype
        scale = torch.tensor(embedding.scalar_embed_scale, dtype=dtype)
        embedding.embed_scale = scale.to(embedding.embed_scale.device)
    # Buffers keep their own dtypes. If layers are spread, the buffers are already in place.
    return model if device_settings else model.to(device)
