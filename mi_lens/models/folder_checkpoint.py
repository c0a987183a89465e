"""A checkpoint as Hugging Face keeps it: a folder with config.json, safetensors and a tokenizer."""

from pathlib import Path
from typing import Any

import torch

from mi_lens.models.backends.lookup import backends_of
from mi_lens.models.checkpoint import find_checkpoint
from mi_lens.models.checkpoint_files import (
    read_json,
    require_same_weights,
    require_tied_as_said,
    require_whole,
    stored_dtype,
)
from mi_lens.models.config_values import blaming, require_possible
from mi_lens.models.quantization import quantization_of

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


class FolderCheckpoint:
    """A checkpoint's folder; `GGUFCheckpoint` has the same methods.

    Attributes:
        path: The folder.
        config_file: What an error about the config names.
    """

    def __init__(self, path: Path, name: str | Path) -> None:
        """A folder found by its name, of which the weights may still have to be downloaded."""
        self.path, self._name = path, name
        self.config_file = path / "config.json"

    def settings(self) -> dict[str, Any]:
        """What config.json holds.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If the architecture or the way in which the weights are quantised is not
                supported, or a value of the config is impossible.
        """
        if not self.config_file.is_file():
            raise FileNotFoundError(
                f"{self.config_file} is missing: {self.path} is not a Hugging Face checkpoint (a "
                "GGUF file is named by its path or by gguf_file=)"
            )
        config = read_json(self.config_file)
        architectures = config.get("architectures")
        first = architectures[0] if isinstance(architectures, list) and architectures else None
        try:
            backends_of(first)
        except ValueError as error:
            raise ValueError(f"{self.config_file}: {error}") from None
        quantization_of(self.config_file, config)
        require_possible(self.config_file, config)
        return config

    def config(self) -> Any:
        """Hugging Face's config.

        Raises:
            ValueError: If the config is impossible, or asks for code of the checkpoint's own.
        """
        from transformers import AutoConfig

        with blaming(self.config_file):
            return AutoConfig.from_pretrained(self.path, trust_remote_code=False)

    def tokenizer(self) -> Any:
        """The tokenizer, read from `tokenizer.json` if there is one; None without tokenizer files.

        AutoTokenizer may build a tokenizer from the name of its class or of the model's family.
        That one can split text differently and so give other token ids than the model was trained
        on.

        Raises:
            ValueError: If its files cannot be read.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if not any((self.path / file).is_file() for file in TOKENIZER_FILES):
            return None
        exact = (self.path / "tokenizer.json").is_file()
        kind = PreTrainedTokenizerFast if exact else AutoTokenizer
        try:
            tokenizer = kind.from_pretrained(
                self.path, padding_side="left", trust_remote_code=False
            )
        except Exception as error:  # Its parts raise errors of many kinds, without the file's name.
            raise ValueError(
                f"{self.path}: its tokenizer cannot be read ({type(error).__name__}: {error})"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # any would do, because padding is masked
        return tokenizer

    def require_weights(self) -> None:
        """Downloads the weights of a model on the hub, and checks that all files are whole.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is not whole.
            OSError: If the hub does not give the files.
        """
        self.path = find_checkpoint(self._name)
        require_whole(self.path)

    def read(self, dtype: torch.dtype, **settings: Any) -> Any:
        """The Hugging Face model.

        Weights are read in the dtype in which they are stored, so that the files are only mapped
        into memory. Quantised weights are read, placed and converted by Hugging Face's quantiser.

        Args:
            dtype: The dtype of quantised models' other weights, and of a file whose own dtype no
                model has.
            settings: Further arguments of Hugging Face's from_pretrained.

        Raises:
            ValueError: If the weights are not those of the config.
        """
        from transformers import AutoModelForCausalLM

        load: Any = AutoModelForCausalLM.from_pretrained  # its annotation omits the loading info
        plain = quantization_of(self.config_file, read_json(self.config_file)) is None
        with blaming(self.config_file):
            model, report = load(
                self.path,
                dtype=(stored_dtype(self.path) if plain else None) or dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            )
        require_same_weights(self.path, report)
        require_tied_as_said(self.path, model)
        return model
