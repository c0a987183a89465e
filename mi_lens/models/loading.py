"""Loads a built-in model, a Hugging Face id or a folder, with either backend."""

from pathlib import Path
from typing import Any

import torch

from mi_lens.models.backends.lookup import get_backend
from mi_lens.models.backends.protocol import Backend
from mi_lens.models.checkpoint import TEXT_FILES, find_checkpoint
from mi_lens.models.checkpoint_files import GENERATION_CONFIG, require_tokenizer_fits
from mi_lens.models.config_values import blaming
from mi_lens.models.folder_checkpoint import TOKENIZER_FILES, FolderCheckpoint
from mi_lens.models.gguf_checkpoint import GGUFCheckpoint
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
from mi_lens.problems.think_kinds import AUTO, require_think_kind, use_think_kind


def load(
    name: str | Path,
    *,
    gguf_file: str | None = None,
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
        name: A pocket model, such as "pocket-reasoner" or "pocket-rl"; "smollm2",
            SmolLM2-135M-Instruct, if the package that it comes with is installed; a Hugging Face
            id, which is downloaded once; a folder with `config.json` and safetensors; or a GGUF
            file, by its path or by "owner/model/file.gguf" on the hub. A GGUF file's weights are
            dequantised.
        gguf_file: The GGUF file to load from the folder or from the Hugging Face id.
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
        think: How the model marks its thinking: a kind of
            `mi_lens.problems.think_kinds.THINK_KINDS`, such as "think" or "none"; "auto" finds it
            from the tokenizer and its chat template.

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
            fewer GPUs than `n_devices`, the tokenizer cannot write the marks of the kind `think`,
            or the checkpoint's files are damaged or do not fit each other.
        FileNotFoundError: If the folder or one of its files is missing.
        ImportError: If the weights are quantised in a way that needs a package.
        OSError: If the Hugging Face hub cannot be reached, or does not give the model.
    """
    if backend != "auto":
        get_backend(backend)
    torch_device = parse_device(device)
    given_dtype = None if dtype is None else parse_dtype(dtype)
    require_think_kind(think)
    checkpoint = opened(name, gguf_file)
    settings, hf_config = checkpoint.settings(), checkpoint.config()
    config_file = checkpoint.config_file
    quantization = quantization_of(config_file, settings)
    chosen_backend = choose_backend(config_file, backend, settings, hf_config)
    spread = placement(chosen_backend.name, device, n_devices)
    if quantization:
        require_quantizer(config_file, settings, quantization, torch_device)
        spread = spread or {"device_map": {"": torch_device}}
    checkpoint.require_weights()  # only now are they downloaded
    torch_dtype = given_dtype or default_dtype(settings, torch_device)
    vocabulary = hf_config.get_text_config().vocab_size
    tokenizer = _tokenizer(checkpoint, think)
    require_tokenizer_fits(checkpoint.path, tokenizer, vocabulary)
    hf_model = checkpoint.read(torch_dtype, attn_implementation="eager", **spread)
    if quantization:
        complete(hf_model)
    _convert(hf_model, torch_dtype, None if spread else torch_device, bool(quantization))
    if quantization:
        quantization = description_of(hf_model, quantization)
    end_ids = _end_ids(checkpoint.path, hf_model.generation_config, vocabulary)
    try:
        expected = reference(hf_model)
    except RuntimeError as error:  # Layers made for another dtype.
        raise ValueError(
            f"{checkpoint.path}: Hugging Face's own model does not run in {torch_dtype}: {error}"
            f"{'; leave dtype out' if quantization else ''}"
        ) from error
    model = _built(chosen_backend, hf_model, tokenizer, checkpoint.path)
    model.quantization = quantization
    model.abilities = check(chosen_backend, model, expected)
    model.eos_token_ids = end_ids
    return model


def load_outline(
    name: str | Path, backend: str = "auto", think: str = AUTO, *, gguf_file: str | None = None
) -> Any:
    """A model without its weights: it has the checkpoint's hooks and tokenizer, but cannot run.

    It tells which settings fit a model, from the checkpoint's small files only, and stands for the
    model where another engine runs it. Its tensors have shapes and no values; `eos_token_ids` are
    those of the loaded model.

    Args:
        name: As in `load`; for a Hugging Face id only the small files are downloaded, unless they
            are in a GGUF file.
        backend: As in `load`.
        think: As in `load`.
        gguf_file: As in `load`.

    Raises:
        ValueError: If the name, backend, architecture or kind of think block is not supported.
        FileNotFoundError: If the folder or its config is missing.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    if backend != "auto":
        get_backend(backend)
    checkpoint = opened(name, gguf_file)
    settings, config = checkpoint.settings(), checkpoint.config()
    tokenizer = _tokenizer(checkpoint, think)
    chosen_backend = choose_backend(checkpoint.config_file, backend, settings, config)
    generation_config = GenerationConfig.from_model_config(config)
    if (checkpoint.path / GENERATION_CONFIG).is_file():
        generation_config = GenerationConfig.from_pretrained(checkpoint.path)

    def build(device: str) -> Any:
        with torch.device(device), blaming(checkpoint.config_file):
            hf_model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            if device == "meta" and hasattr(hf_model, "set_experts_implementation"):
                hf_model.set_experts_implementation("batched_mm")  # Others look at values.
            return chosen_backend.build(hf_model, tokenizer)

    try:
        outline = build("meta")
    except NotImplementedError:  # the bridge splits GPT-2's fused projections, which needs values
        outline = build("cpu")
    vocabulary = config.get_text_config().vocab_size
    outline.eos_token_ids = _end_ids(checkpoint.path, generation_config, vocabulary)
    return outline


def _end_ids(path: Path, generation_config: Any, vocabulary: int) -> frozenset[int]:
    """The tokens that end a generation, as a checkpoint's generation config says.

    They are not the tokenizer's end of text: chat models end their turns with other tokens.

    Raises:
        ValueError: If one is not in the vocabulary.
    """
    ends = generation_config.eos_token_id
    end_ids = frozenset(ends if isinstance(ends, list) else [ends]) - {None}
    if strange := [end for end in end_ids if end not in range(vocabulary)]:
        raise ValueError(
            f"{path}: its generation config ends at eos_token_id {strange[0]!r}; "
            f"expected ids of the vocabulary, from 0 to {vocabulary - 1}"
        )
    return end_ids


def _built(backend: Backend, hf_model: Any, tokenizer: Any, path: Path) -> Any:
    try:
        return backend.build(hf_model, tokenizer)
    except (MemoryError, torch.OutOfMemoryError, ValueError):
        raise
    except Exception as error:  # TransformerLens knows more architectures than it can wrap here.
        raise ValueError(
            f"{path}: TransformerLens cannot take over Hugging Face's {type(hf_model).__name__} "
            f"({type(error).__name__}: {error}); try another version of it, or of transformers"
        ) from error


def load_tokenizer(name: str | Path, think: str = AUTO, *, gguf_file: str | None = None) -> Any:
    """Load the tokenizer that `load` gives the model, without the model.

    Args:
        name: As in `load`; for a Hugging Face id only the small files are downloaded, unless they
            are in a GGUF file.
        think: As in `load`.
        gguf_file: As in `load`.

    Raises:
        ValueError: If there is no model of this name, or no such kind of think block.
        FileNotFoundError: If the folder is missing, or has no tokenizer files.
        OSError: If the Hugging Face hub cannot be reached, or does not give the files.
    """
    checkpoint = opened(name, gguf_file)
    tokenizer = _tokenizer(checkpoint, think)
    if tokenizer is None:
        raise FileNotFoundError(
            f"{checkpoint.path} has no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}"
        )
    return tokenizer


def opened(name: str | Path, gguf_file: str | None = None) -> FolderCheckpoint | GGUFCheckpoint:
    """The checkpoint of a name, opened and not read; arguments and errors as of `load`."""
    path = find_checkpoint(name, gguf_file, TEXT_FILES)
    return FolderCheckpoint(path, name) if path.is_dir() else GGUFCheckpoint(path)


def _tokenizer(checkpoint: FolderCheckpoint | GGUFCheckpoint, think: str) -> Any:
    require_think_kind(think)
    tokenizer = checkpoint.tokenizer()
    if tokenizer is not None:
        use_think_kind(tokenizer, think)
    return tokenizer


def _convert(
    hf_model: Any, dtype: torch.dtype, device: torch.device | None, quantised: bool
) -> None:
    """Brings a model that was read to a dtype and a device, weight by weight.

    The memory of a mapped file is freed with the last of its weights. Quantised weights stay as
    Hugging Face's quantiser left them.

    Args:
        hf_model: The Hugging Face model.
        dtype: The dtype of all other weights.
        device: The device; None leaves every weight where it is.
        quantised: Whether some weights are codes.
    """
    if dtype == torch.float64 and hasattr(hf_model, "set_experts_implementation"):
        hf_model.set_experts_implementation("eager")  # The fused kernel has no float64.
    converted = [module for module in hf_model.modules() if not quantised or is_plain(module)]
    for module in converted:
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(device or parameter.device, dtype)
    hf_model.config.dtype = dtype
    embedding = hf_model.get_input_embeddings()
    if hasattr(embedding, "scalar_embed_scale"):  # Gemma's; it was rounded to the stored dtype
        scale = torch.tensor(embedding.scalar_embed_scale, dtype=dtype)
        embedding.embed_scale = scale.to(embedding.embed_scale.device)
    if device is not None:
        hf_model.to(device)  # Buffers, which keep their own dtypes.
