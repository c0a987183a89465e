"""Shards: the states of one trace in one safetensors file, named by their origin and verified.

The header's metadata records the origin of the states (`Origin`). A shard of another origin raises
an error; it is neither used nor overwritten. The metadata also holds a CRC-32 for every hook name,
over the origin, the shape and the states. It is verified whenever states are read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_lens.common.files import replacing
from mi_lens.common.provenance import code_hash, content_hash
from mi_lens.common.records import AGAIN, DamagedError
from mi_lens.interventions.replay import ReadUnder
from mi_lens.models.hook_names import near
from mi_lens.traces.trace import Trace

States = dict[str, Float[Tensor, "step d"]]
CHECKSUM_OF = "checksum of "


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
    reading = ("states/segments.py", "states/trace_batches.py", "models/padding.py")
    code = code_hash(*reading, "models/backends", "interventions")
    return ", ".join(f"{name} {version(name)}" for name in packages) + f", {code}"


def begun_checksum(
    name: str, dtype: torch.dtype, shape: Sequence[int], metadata: Mapping[str, str]
) -> int:
    """The CRC-32 of all that a shard says of a hook name's states, before the states themselves."""
    about = {k: v for k, v in metadata.items() if not k.startswith(CHECKSUM_OF)}
    text = json.dumps([name, str(dtype), list(shape), about], sort_keys=True)
    return crc32(text.encode())


def checksum_of(states: Tensor, begun: int) -> int:
    """The CRC-32 of a hook name's states, or of the next of them, after what `begun` covers."""
    return crc32(states.contiguous().reshape(-1).view(torch.uint8).numpy().data, begun)


def _verified(path: Path, file: Any, name: str) -> Tensor:
    """The states at a hook name, once their checksum is verified."""
    metadata = file.metadata() or {}
    states = file.get_tensor(name)
    begun = begun_checksum(name, states.dtype, states.shape, metadata)
    if metadata.get(CHECKSUM_OF + name) != f"{checksum_of(states, begun):08x}":
        raise DamagedError(
            f"{path}: the states at {name} were altered since they were written (their checksum "
            f"differs); {AGAIN}"
        )
    return states


def save_activations(states: States, path: str | Path, **metadata: str) -> None:
    """Writes the states of one trace as a safetensors file, completely or not at all."""
    with replacing(path) as temporary:
        kept = {name: s.detach().cpu().contiguous() for name, s in states.items()}
        for name, stored in kept.items():
            begun = begun_checksum(name, stored.dtype, stored.shape, metadata)
            metadata[CHECKSUM_OF + name] = f"{checksum_of(stored, begun):08x}"
        save_file(kept, temporary, metadata)


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
        DamagedError: If the file is not a complete safetensors file, or was altered.
        ValueError: If the file lacks a hook name, or has another origin.
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise FileNotFoundError(f"{path}: no shards (*.safetensors); give a folder of states")
        return {shard.stem: load_activations(shard, hook_names, origin) for shard in shards}
    with _opened(path) as file:
        held = list(file.keys())
        lacking = [name for name in hook_names or () if name not in held]
        if lacking:
            hints = "".join(near(name, held) for name in lacking[:1])
            raise ValueError(f"{path}: holds {held} and lacks {lacking}; capture these too{hints}")
        states = {name: _verified(path, file, name) for name in (hook_names or held)}
        if origin is not None:
            _require_origin(path, file, origin)
        return states


def held_names(path: str | Path, origin: Origin) -> list[str]:
    """The hook names in a shard, whose states are all verified; none if there is no such file.

    Raises:
        DamagedError: If the file is not a complete safetensors file, or was altered.
        ValueError: If the file is whole and has another origin.
    """
    path = Path(path)
    if not path.exists():
        return []
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 -- it is no mapping
            _verified(path, file, name)
        _require_origin(path, file, origin)
        return list(file.keys())


@contextmanager
def _opened(path: Path) -> Iterator:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such activations")
    try:
        opened = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path}: not a whole safetensors file ({error}); {AGAIN}") from error
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
