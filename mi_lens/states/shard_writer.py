"""A shard written piece by piece, with its checksums last.

A safetensors file consists of a header, which says where each tensor lies, and the tensors. So the
file can be created at its full size before any state is known. Every piece of the states is then
written to its place as soon as it is computed, and need not wait in memory for the others. The file
has a temporary name until it is complete, so a crash leaves nothing that looks like a shard.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.files import naming_full_disk, replacing
from mi_lens.states.shard import CHECKSUM_OF, begun_checksum, checksum_of

NO_CHECKSUM = "--------"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


class Shard:
    """A shard that is being written; see `new_shard`."""

    def __init__(
        self,
        path: Path,
        file: BinaryIO,
        begins: dict[str, int],
        shapes: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
        metadata: Mapping[str, str],
    ):
        self._path, self._file = path, file
        self._begins, self._shapes, self._dtype = begins, shapes, dtype
        self._filled = dict.fromkeys(begins, 0)
        self._checksums = {
            name: begun_checksum(name, dtype, shape, metadata) for name, shape in shapes.items()
        }

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
        self._checksums[name] = checksum_of(kept, self._checksums[name])

    def seal(self, header: bytes) -> None:
        """Writes the checksums to their places in the header.

        Raises:
            ValueError: If a step of any hook name has not been written.
        """
        lacking = {name: n for name, n in self._filled.items() if n < self._shapes[name][0]}
        if lacking:
            raise ValueError(f"{self._path}: only so many steps were written: {lacking}")
        for name, checksum in self._checksums.items():
            field = json.dumps({CHECKSUM_OF + name: NO_CHECKSUM})[1:-1].encode()
            end = 8 + header.index(field) + len(field) - 1  # before the closing quotation mark
            self._file.seek(end - len(NO_CHECKSUM))
            self._file.write(f"{checksum:08x}".encode())


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
    checksums = {CHECKSUM_OF + name: NO_CHECKSUM for name in shapes}
    header: dict[str, object] = {"__metadata__": {**metadata, **checksums}}
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
    with replacing(path) as temporary, temporary.open("r+b") as file:
        _take_room(file, before + end)
        file.write(len(text).to_bytes(8, "little") + text)
        shard = Shard(Path(path), file, begins, shapes, dtype, metadata)
        yield shard
        shard.seal(text)


def _take_room(file: BinaryIO, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)
