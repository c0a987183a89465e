"""Shards: the states of one trace in one safetensors file, which is written piece by piece.

A safetensors file consists of a header, which says where each tensor lies, and the tensors. So the
file can be created at its full size before any state is known. Every piece of the states is then
written to its place as soon as it is computed, and need not wait in memory for the others. The file
has a temporary name until it is complete, so a crash leaves nothing that looks like a shard.

The header's metadata records the origin of the states (`Origin`). A shard of another origin raises
an error; it is neither used nor overwritten. An incomplete file counts as missing and is written
again.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_lens.common.files import naming_full_disk, replacing
from mi_lens.common.provenance import code_hash, content_hash
from mi_lens.interventions.replay import ReadUnder
from mi_lens.models.hook_names import near
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
    """The trace, model and code that produced the states in a shard.

    Attributes:
        trace: The trace's id.
        tokens: Hash of the token ids of the prompt and of the trace. The id alone is not enough: it
            identifies the request, and another machine may sample other tokens for the same
            request.
        model: Fingerprint of the model that computed the states.
        dtype: The dtype in which the states are stored.
        code: The code that computed the states, see `capture_code`.
        condition: "as generated" if the model read the trace under the interventions that it was
            written under; "none" if the trace has interventions and was read without.
    """

    trace: str
    tokens: str
    model: str
    dtype: str
    code: str
    condition: str

    @classmethod
    def of(
        cls,
        trace: Trace,
        model: str,
        dtype: torch.dtype,
        condition: ReadUnder = "as generated",
    ) -> "Origin":
        """The origin of the states that this code computes of a trace.

        Args:
            trace: The trace.
            model: Fingerprint of the model.
            dtype: The dtype in which the states are stored.
            condition: What the trace is read under; see `capture`.
        """
        tokens = content_hash([trace.prompt_ids, trace.token_ids])
        stored = str(dtype).removeprefix("torch.")
        plain = trace.condition.get("interventions") and condition is None
        read_under = "none" if plain else "as generated"
        return cls(trace.id, tokens, model, stored, capture_code(), read_under)


@cache
def capture_code() -> str:
    """The versions of the packages that determine a state, and a hash of the code for it here."""
    packages = ("mi-lens", "torch", "transformer-lens", "transformers")
    code = code_hash("states/segments.py", "models/padding.py", "models/backends", "interventions")
    return ", ".join(f"{name} {version(name)}" for name in packages) + f", {code}"


class Shard:
    """A shard that is being written; see `new_shard`."""

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

    def append(self, name: str, states: Float[Tensor, "part d"]) -> None:
        """Writes the states of a hook name's next steps to their place.

        Raises:
            ValueError: If a state is not finite in the shard's dtype, or if the states do not fit
                the shard.
        """
        first, (steps, d) = self._filled[name], self._shapes[name]
        if states.shape[1] != d or first + len(states) > steps:
            raise ValueError(
                f"{name}: states of shape {tuple(states.shape)} after {first} steps; expected at "
                f"most {steps - first} further states of {d} values each"
            )
        kept = states.to("cpu", self._dtype).contiguous()
        if not kept.isfinite().all():
            bad = int((~kept.isfinite()).any(1).nonzero()[0])
            worst = states[bad].abs().max().item()
            raise ValueError(
                f"{name}: the state of step {first + bad} is not finite in {self._dtype}; its "
                f"largest value is {worst:.3g}. float16 holds values up to 65504, bfloat16 holds "
                "larger ones: use another dtype, or check the model"
            )
        with naming_full_disk(self._path):
            self._file.seek(self._begins[name] + first * d * self._dtype.itemsize)
            self._file.write(kept.view(torch.uint8).numpy().data)
        self._filled[name] += len(kept)

    def require_whole(self) -> None:
        """Raises a ValueError if a step of any hook name has not been written."""
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
    """Creates a shard in a temporary file, and moves it to `path` once it is complete.

    The file is moved if the block ends without an error and has written every step. Otherwise the
    file is removed. Where the system supports it, the disk space is reserved at the start, so that
    a full disk raises an error before the first state is computed.

    Args:
        path: Path of the finished shard.
        shapes: A mapping from each hook name to its shape (steps, d).
        dtype: float64, float32, float16 or bfloat16.
        metadata: The metadata of the header.

    Raises:
        ValueError: If the dtype is not supported, or the block has not written every step.
        OSError: If the disk is full.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: expected one of {list(DTYPES)}")
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
    text += b" " * (-len(text) % 8)  # The tensors must begin at a multiple of 8 bytes.
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
    """Writes the states of one trace as a safetensors file, completely or not at all."""
    with replacing(path) as temporary:
        save_file({name: s.contiguous() for name, s in states.items()}, temporary, metadata)


def load_activations(
    path: str | Path, hook_names: Sequence[str] | None = None, origin: Origin | None = None
) -> dict[str, Any]:
    """Reads the states in a shard, or in a file that `save_activations` wrote.

    Args:
        path: The file; or a folder of shards, such as `capture_into` writes.
        hook_names: The hook names to read. None means all of them.
        origin: The origin that the shard must have. None accepts every origin.

    Returns:
        A mapping from each hook name to states of shape (step, d). Of a folder, a mapping from the
        id of each trace to such a mapping; all of these states are then in memory.

    Raises:
        FileNotFoundError: If the file does not exist, or the folder has no shards.
        ValueError: If the file is not a complete safetensors file, lacks a hook name, or has
            another origin.
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise FileNotFoundError(f"{path}: no shards (*.safetensors); give a folder of states")
        return {shard.stem: load_activations(shard, hook_names, origin) for shard in shards}
    with _opened(path) as file:
        if origin is not None:
            _require_origin(path, file, origin)
        held = list(file.keys())
        lacking = [name for name in hook_names or () if name not in held]
        if lacking:
            hints = "".join(near(name, held) for name in lacking[:1])
            raise ValueError(f"{path}: holds {held} and lacks {lacking}; capture these too{hints}")
        return {name: file.get_tensor(name) for name in (hook_names or held)}


def held_names(path: str | Path, origin: Origin) -> list[str]:
    """The hook names in a shard. Reads only the file's header.

    Returns:
        The hook names. The list is empty if the file is missing or incomplete.

    Raises:
        ValueError: If the file is complete and has another origin.
    """
    path = Path(path)
    try:
        with _opened(path) as file:
            _require_origin(path, file, origin)
            return list(file.keys())
    except (FileNotFoundError, NotWholeError):
        return []


class NotWholeError(ValueError):
    """A file is not a complete safetensors file."""


@contextmanager
def _opened(path: Path) -> Iterator:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such activations")
    try:
        opened = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise NotWholeError(
            f"{path}: not a whole safetensors file ({error}); capture the trace again"
        ) from error
    with opened as file:
        yield file


def _require_origin(path: Path, file, origin: Origin) -> None:
    metadata = file.metadata() or {}
    different = [
        f"{key} is {metadata.get(key)!r}, not {wanted!r}"
        for key, wanted in asdict(origin).items()
        if metadata.get(key) != wanted
    ]
    if different:
        raise ValueError(
            f"{path}: holds other states than those asked for: {'; '.join(different)}. The file "
            "was neither used nor changed; give another folder, or remove the file"
        )
