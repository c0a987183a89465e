"""One trace's states in one safetensors file, laid out first and filled piece by piece.

A safetensors file is a header that says where each tensor lies, and then the tensors. So the file
can be made at its full size before any state is known, and every piece be written to its place as
it comes: none has to wait in memory for the others. Until the last piece is there the file has
another name, so what a kill leaves behind is never taken for a shard.

The header's metadata says what the states were read from (`Origin`). A shard of another origin is
refused, never read and never overwritten; a file that is not whole holds nothing and is made again.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_lens.common.files import naming_full_disk, replacing
from mi_lens.common.provenance import content_hash
from mi_lens.traces.trace import Trace

States = dict[str, Float[Tensor, "step d"]]
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True)
class Origin:
    """What the states in a shard were read from, and by what.

    Attributes:
        trace: The trace's id.
        tokens: Hash of its prompt's and its own token ids: an id says what was asked for, and
            another machine may have sampled other tokens from the same.
        model: Fingerprint of the model that read them.
        dtype: What the states are kept in.
        code: See `capture_code`.
    """

    trace: str
    tokens: str
    model: str
    dtype: str
    code: str

    @classmethod
    def of(cls, trace: Trace, model: str, dtype: torch.dtype) -> "Origin":
        """The origin of a trace's states, read here by the model of this fingerprint."""
        tokens = content_hash([trace.prompt_ids, trace.token_ids])
        return cls(trace.id, tokens, model, str(dtype).removeprefix("torch."), capture_code())


@cache
def capture_code() -> str:
    """The versions of all that decides a state, and a hash of this package's part of it."""
    package = Path(__file__).parents[1]
    digest = blake2b(digest_size=4)
    for file in [
        package / "states" / "segments.py",
        package / "models" / "padding.py",
        *sorted((package / "models" / "backends").glob("*.py")),
    ]:
        digest.update(file.read_bytes())
    packages = ("mi-lens", "torch", "transformer-lens", "transformers")
    return ", ".join(f"{name} {version(name)}" for name in packages) + f", {digest.hexdigest()}"


class Shard:
    """A file being filled; see `new_shard`."""

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        begins: dict[str, int],
        shapes: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
    ):
        self._path, self._file = path, file
        self._begins, self._shapes, self._dtype = begins, shapes, dtype
        self._filled = dict.fromkeys(begins, 0)

    def append(self, name: str, states: Float[Tensor, "some d"]) -> None:
        """Writes the next steps' states of a hook name to their place.

        Raises:
            ValueError: If a state is not finite in the shard's dtype, or does not fit the shard.
        """
        first, (steps, d) = self._filled[name], self._shapes[name]
        if states.shape[1] != d or first + len(states) > steps:
            raise ValueError(
                f"{name}: states of shape {tuple(states.shape)} after {first} steps; expected at "
                f"most {steps - first} of {d} values"
            )
        kept = states.to("cpu", self._dtype).contiguous()
        if not kept.isfinite().all():
            bad = int((~kept.isfinite()).any(1).nonzero()[0])
            worst = states[bad].abs().max().item()
            raise ValueError(
                f"{name}: the state of step {first + bad} is not finite in {self._dtype} (its "
                f"largest value is {worst:.3g}); float16 ends at 65504, bfloat16 does not: take "
                "another dtype, or look at the model"
            )
        with naming_full_disk(self._path):
            self._file.seek(self._begins[name] + first * d * self._dtype.itemsize)
            self._file.write(kept.view(torch.uint8).numpy().data)
        self._filled[name] += len(kept)

    def require_whole(self) -> None:
        """Raises a ValueError if a step of a hook name has not been written."""
        lacking = {name: n for name, n in self._filled.items() if n < self._shapes[name][0]}
        if lacking:
            raise ValueError(f"{self._path}: only so many steps were written: {lacking}")


@contextmanager
def new_shard(
    path: str | Path,
    shapes: Mapping[str, tuple[int, int]],
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> Iterator[Shard]:
    """Lays a shard out beside `path`, which it becomes if the block fills it and succeeds.

    Its room on the disk is taken at once, where the system can: a disk that is too small is known
    before the first state is computed.

    Args:
        path: Where the shard will be.
        shapes: Hook name to (steps, d).
        dtype: float64, float32, float16 or bfloat16.
        metadata: For the header.

    Raises:
        ValueError: If the dtype is another, or the block left out a step.
        OSError: If the disk is full; nothing is left behind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: states are kept in one of {list(DTYPES)}")
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begins, end = {}, 0
    for name, (steps, d) in shapes.items():
        begins[name], end = end, end + steps * d * dtype.itemsize
        header[name] = {
            "dtype": DTYPES[dtype],
            "shape": [steps, d],
            "data_offsets": [begins[name], end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8 bytes
    before = 8 + len(text)
    begins = {name: before + begin for name, begin in begins.items()}
    with replacing(path) as temporary:
        with temporary.open("r+b") as file:
            _take_room(file, before + end)
            file.write(len(text).to_bytes(8, "little") + text)
            shard = Shard(Path(path), file, begins, shapes, dtype)
            yield shard
        shard.require_whole()


def _take_room(file: BinaryIO, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def save_activations(states: States, path: str | Path, **metadata: str) -> None:
    """Writes one trace's states as safetensors, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: s.contiguous() for name, s in states.items()}, temporary, metadata)


def load_activations(
    path: str | Path, hook_names: Sequence[str] | None = None, origin: Origin | None = None
) -> States:
    """Reads a shard, or what `save_activations` wrote.

    Args:
        path: The file.
        hook_names: The tensors to read, others are not touched; None reads all.
        origin: What the states must have been read from; None takes any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not whole safetensors, lacks a hook name, or is of another
            origin.
    """
    path = Path(path)
    with _opened(path) as file:
        if origin is not None:
            _require_origin(path, file, origin)
        held = list(file.keys())
        lacking = [name for name in hook_names or () if name not in held]
        if lacking:
            raise ValueError(f"{path}: holds {held}, not {lacking}; capture these too")
        return {name: file.get_tensor(name) for name in (hook_names or held)}


def held_names(path: str | Path, origin: Origin) -> list[str]:
    """The hook names in a whole shard of this origin. Reads its header only.

    Returns:
        None of them if there is no file, or it is not whole.

    Raises:
        ValueError: If the file is whole and of another origin.
    """
    path = Path(path)
    try:
        with _opened(path) as file:
            _require_origin(path, file, origin)
            return list(file.keys())
    except (FileNotFoundError, NotWholeError):
        return []


class NotWholeError(ValueError):
    """A file that is no whole safetensors file."""


@contextmanager
def _opened(path: Path) -> Iterator:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such activations")
    try:
        opened = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise NotWholeError(
            f"{path}: not a whole safetensors file ({error}); capture it again"
        ) from error
    with opened as file:
        yield file


def _require_origin(path: Path, file, origin: Origin) -> None:
    found = file.metadata() or {}
    different = [
        f"{key} is {found.get(key)!r}, not {wanted!r}"
        for key, wanted in asdict(origin).items()
        if found.get(key) != wanted
    ]
    if different:
        raise ValueError(
            f"{path}: holds other states than those asked for: {'; '.join(different)}. Nothing in "
            "it was used or changed; give another folder, or remove the file"
        )
