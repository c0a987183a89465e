"""Tensors in one safetensors file, with a record of what they are; both verified when read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_lens.common.files import replacing
from mi_lens.common.records import AGAIN, DamagedError, sealed, verified

ABOUT = "about"  # The key of the record in the file's metadata.
NUMBERS = "checksums of numbers"


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Writes tensors completely; if that fails, the old file stays.

    Args:
        path: The file.
        tensors: The tensors by name; they are copied to the CPU.
        about: What they are, as JSON can hold it.
    """
    kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    record = sealed({**about, NUMBERS: {name: _checksum(each) for name, each in kept.items()}})
    with replacing(path) as temporary:
        save_file(kept, temporary, {ABOUT: record})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote: the tensors by name, on the CPU, and what they are.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedError: If the file is incomplete, was altered, or holds something else.
    """
    path = Path(path)
    with _opened(path) as file:
        about = _about(path, file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if about.pop(NUMBERS, None) != {name: _checksum(each) for name, each in tensors.items()}:
        raise DamagedError(f"{path}: its numbers were altered since they were written; {AGAIN}")
    return tensors, about


def read_about(path: str | Path) -> dict[str, Any]:
    """The record of a file that `write_tensors` wrote, without its tensors; see `read_tensors`."""
    with _opened(Path(path)) as file:
        about = _about(Path(path), file)
    about.pop(NUMBERS, None)
    return about


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path}: not a whole safetensors file ({error}); {AGAIN}") from None


def _about(path: Path, file: Any) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if ABOUT not in metadata:
        raise DamagedError(f"{path}: mi-lens did not write it (no record of its tensors)")
    return verified(metadata[ABOUT].encode(), str(path))


def _checksum(numbers: Tensor) -> str:
    plain = f"{numbers.dtype} {tuple(numbers.shape)}".encode()
    return f"{crc32(numbers.reshape(-1).view(torch.uint8).numpy().data, crc32(plain)):08x}"
