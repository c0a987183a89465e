"""Models in GGUF, the format of llama.cpp: config, tokenizer and weights in one file.

The weights are dequantised, one by one. Tables of the gguf library translate llama.cpp's names
of weights, and tables of transformers its settings. transformers itself passes over what it has no
name for, such as the scaled rotary frequencies of Llama 3, and then computes something else; here
every name has a place, or the file is refused.

Not covered: files in parts, and architectures that are not in `ARCHITECTURES`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mi_lens.models.checkpoint_files import pointer, require_same_weights
from mi_lens.models.config_values import blaming, require_possible
from mi_lens.models.gguf_tokenizer import build_tokenizer

ROTARY = {"attention.key_length": "head_dim"}
SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")
# llama.cpp's architectures -> its settings that transformers' tables lack, by Hugging Face's names.
ARCHITECTURES: dict[str, dict[str, str]] = {
    "gemma2": ROTARY | {name: name for name in SOFTCAPS},
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
    "llama": ROTARY,
    "qwen2": ROTARY,
    "qwen3": ROTARY,
}
# Settings that say nothing new: shapes say it too, or llama.cpp does not read them.
SAID_ELSEWHERE = {"attention.value_length", "rope.dimension_count", "tensor_data_layout"}
OPTIONAL = {
    *("vocab_size", "attention.head_count_kv", "attention.key_length"),
    *("rope.freq_base", "rope.dimension_count", *SOFTCAPS),
}
ROPE_FACTORS = "rope_freqs.weight"
ENDS = ("eos_token_id", "eot_token_id")  # llama.cpp stops at either
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


class GGUFCheckpoint:
    """A GGUF file, opened and checked, its weights unread; methods as of `FolderCheckpoint`.

    Attributes:
        path: The file.
        config_file: What an error about the config names: the file.
        tensors: What the file holds, by llama.cpp's names.
        architecture: llama.cpp's name of it.
    """

    def __init__(self, path: Path) -> None:
        """Reads what the file says of itself.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is cut short, a part of a split one, a pointer of Git LFS, no
                GGUF at all, of an architecture that is not supported, or holds a type of tensor
                that cannot be dequantised.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r} to load a model from")
        try:
            reader = _open(path)
        except Exception as error:  # numpy's and the reader's errors are of many kinds
            raise ValueError(
                f"{path}: not a whole GGUF file of types that the gguf library knows "
                f"({pointer(path) or error}); download it again, or upgrade gguf"
            ) from None
        self.path = self.config_file = path
        self._fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.architecture = self.value("general.architecture")
        if (parts := self.value("split.count") or 1) > 1:
            raise ValueError(
                f"{path}: one of {parts} parts; join them first, with llama.cpp's `llama-gguf-split"
                " --merge`"
            )
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"{path}: architecture {self.architecture!r} is not supported as GGUF; supported "
                f"are {', '.join(ARCHITECTURES)}: load the original checkpoint"
            )
        self._require_known_types()

    def value(self, name: str) -> Any:
        """What the file says under a name; None if nothing."""
        if name not in self._fields:
            return None
        value = self._fields[name].contents()
        # The shortest decimal of a float32 is what the config said before it became one.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def settings(self) -> dict[str, Any]:
        """What a config.json of this model would hold.

        Raises:
            ValueError: If a setting is missing, impossible, or has no counterpart.
        """
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if "token_embd.weight" not in self.tensors:
            raise ValueError(f"{self.path}: has no token_embd.weight; convert the checkpoint again")
        kinds = {tensor.tensor_type.name for tensor in self.tensors.values()} - {"F32"}
        ends = [self.value(f"tokenizer.ggml.{name}") for name in ENDS]
        settings = self._translated() | {
            "model_type": self.architecture,
            "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[self.architecture]],
            "vocab_size": int(self.tensors["token_embd.weight"].shape[1]),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": sorted({end for end in ends if end is not None}) or None,
            "dtype": "bfloat16" if kinds == {"BF16"} else "float32",
        }
        if self.architecture != "gpt2":
            self._fill_in(settings)
        require_possible(self.path, settings)
        return settings

    def config(self) -> Any:
        """Hugging Face's config of the model.

        Raises:
            ValueError: If a setting is missing, impossible, or has no counterpart.
        """
        from transformers import AutoConfig

        settings = self.settings()
        with blaming(self.path):
            return AutoConfig.for_model(**settings)

    def tokenizer(self) -> Any:
        """The tokenizer, with the file's chat template.

        Raises:
            ValueError: If the file has no tokenizer, or one that cannot be built exactly.
        """
        return build_tokenizer(self.path, self.value)

    def require_weights(self) -> None:
        """The file was found whole when it was opened."""

    def read(self, dtype: torch.dtype, **settings: Any) -> Any:
        """The Hugging Face model, dequantised one weight after the other.

        Args:
            dtype: Of the model.
            settings: Further arguments of Hugging Face's from_pretrained.

        Raises:
            ValueError: If the file's weights are not those of its settings.
        """
        import transformers

        config = self.config()
        model_class = getattr(transformers, config.architectures[0])
        weights = self._weights(config, dtype)
        with blaming(self.path):
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=dtype,
                output_loading_info=True,
                **settings,
            )
        require_same_weights(self.path, report)
        model.config.name_or_path = str(self.path)
        return model

    def _weights(self, config: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights, dequantised in float32 and then rounded, by Hugging Face's names."""
        from gguf.quants import dequantize
        from transformers import AutoModelForCausalLM
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        places = self._places(empty.state_dict(), config.num_hidden_layers)
        if unused := sorted(self.tensors.keys() - places.keys() - {ROPE_FACTORS}):
            raise ValueError(
                f"{self.path}: {len(unused)} weights have no place in a model of its settings: "
                f"{', '.join(unused[:4])}{', ...' if len(unused) > 4 else ''}"
            )
        processor = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)(config.to_dict())
        weights: dict[str, torch.Tensor] = {}
        # The largest first, because a float32 copy stands beside the weights that are there.
        for name in sorted(places.keys() & self.tensors.keys(), key=self._size, reverse=True):
            values = dequantize(self._bytes(name), self.tensors[name].tensor_type)
            values = processor.process(values, name, parsed_parameters={"tensors": {}}).weights
            weights[places[name]] = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        return weights

    def _places(self, names: Iterable[str], n_layers: int) -> dict[str, str]:
        """llama.cpp's name of each weight -> Hugging Face's."""
        from gguf.constants import MODEL_ARCH_NAMES
        from gguf.tensor_mapping import get_tensor_name_map

        kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
        table = get_tensor_name_map(kinds[self.architecture], n_layers)
        places = {table.get_name(name, (".weight", ".bias")): name for name in names}
        return {ours: theirs for ours, theirs in places.items() if ours is not None}

    def _translated(self) -> dict[str, Any]:
        """The settings of the architecture, by Hugging Face's names."""
        from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

        kind = self.architecture
        names = GGUF_TO_TRANSFORMERS_MAPPING["config"][kind] | ARCHITECTURES[kind]
        said = {key.removeprefix(f"{kind}.") for key in self._fields if key.startswith(f"{kind}.")}
        if self.value(f"{kind}.rope.scaling.type") == "none":
            said = {key for key in said if not key.startswith("rope.scaling.")}
        if strange := sorted(said - names.keys() - SAID_ELSEWHERE):
            raise ValueError(
                f"{self.path}: sets {', '.join(f'{kind}.{key}' for key in strange)}, which cannot "
                "be read from GGUF and may change what the model computes; load the original "
                "checkpoint"
            )
        if absent := sorted({key for key in names if names[key]} - said - OPTIONAL):
            raise ValueError(f"{self.path}: {kind}.{absent[0]} is missing; convert the model again")
        return {names[key]: self.value(f"{kind}.{key}") for key in said if names.get(key)}

    def _fill_in(self, settings: dict[str, Any]) -> None:
        """Adds what llama.cpp assumes where a file is silent and Hugging Face assumes otherwise."""
        heads = settings["num_attention_heads"]
        settings.setdefault("num_key_value_heads", heads)
        settings.setdefault("head_dim", settings["hidden_size"] // heads)
        theta = settings.pop("rope_theta", 10_000.0)
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
        if self.architecture == "gemma2":  # its 27B, of 46 blocks, scales attention otherwise
            is_27b = settings["num_hidden_layers"] == 46
            scale = settings["hidden_size"] // heads if is_27b else settings["head_dim"]
            settings["query_pre_attn_scalar"] = scale
        if ROPE_FACTORS in self.tensors:
            settings["rope_parameters"] |= self._llama3_rope(theta, settings["head_dim"])

    def _llama3_rope(self, theta: float, head_dim: int) -> dict[str, Any]:
        """Llama 3's scaling of rotary frequencies, recognised by the factors in the file."""
        from transformers import LlamaConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        factors = torch.from_numpy(self._bytes(ROPE_FACTORS).astype(np.float32))
        plain = theta ** -(torch.arange(0, head_dim, 2) / head_dim)
        found = LLAMA3_ROPE | {"factor": float(factors.max())}
        config = LlamaConfig(head_dim=head_dim, rope_parameters={"rope_theta": theta, **found})
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        if factors.shape != scaled.shape or not torch.allclose(plain / factors, scaled, rtol=1e-4):
            raise ValueError(
                f"{self.path}: {ROPE_FACTORS} scales rotary frequencies otherwise than Llama 3 "
                "does; load the original checkpoint"
            )
        return found

    def _require_known_types(self) -> None:
        from gguf.constants import GGML_QUANT_SIZES
        from gguf.quants import dequantize

        for kind in {tensor.tensor_type for tensor in self.tensors.values()}:
            try:
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            except NotImplementedError:
                raise ValueError(
                    f"{self.path}: holds weights of type {kind.name}, which the gguf library "
                    "cannot dequantise; take a file of another type, such as Q8_0"
                ) from None

    def _size(self, name: str) -> int:
        return int(self.tensors[name].n_elements)

    def _bytes(self, name: str) -> np.ndarray:
        """A tensor as it lies in the file; read, because mapped pages would stay in memory."""
        tensor = self.tensors[name]
        shape, kind = tensor.data.shape, tensor.data.dtype
        count, offset = int(tensor.data.size), int(tensor.data_offset)
        return np.fromfile(self.path, kind, count, offset=offset).reshape(shape)


def _open(path: Path) -> Any:
    """Gguf's reader, with the file as a plain array: slices of numpy's memmap take three times as
    long, and a vocabulary has 100,000 of them.
    """
    from gguf.gguf_reader import GGUFReader

    class Reader(GGUFReader):
        @property
        def data(self) -> np.ndarray:
            return self._data

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._data = np.asarray(mapped)

    return Reader(path)
