"""Saves the state of a training run, so that a killed run can resume.

The file on disk is complete at any moment.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Progress:
    """How many blocks, steps and tokens a run has done."""

    block: int = 0
    step: int = 0
    tokens: int = 0


def settings_of(config: Any, *immaterial: str) -> str:
    """The settings in which a resumed run must agree with the run that it resumes, as JSON.

    Args:
        config: The run's configuration, a dataclass.
        immaterial: Names of the settings that change no result, or may change.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in immaterial}
    return json.dumps(settings, sort_keys=True)


def _tensors_of(model: nn.Module, optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for kind, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"{kind}.{index}.{name}": value for name, value in entries.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_state(
    path: Path,
    settings: str,
    progress: Progress,
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Write all that a later process needs to resume; a kill leaves the old or the new file."""
    partial = path.with_name(f"{path.name}.partial")
    metadata = {"config": settings, "progress": json.dumps(asdict(progress))}
    save_file(_tensors_of(model, optimizers), partial, metadata=metadata)
    os.replace(partial, path)


def load_state(
    path: Path, settings: str, model: nn.Module, optimizers: Mapping[str, Optimizer]
) -> Progress:
    """Load a saved state into the model and the optimizers, and return its progress.

    If there is no saved state, nothing changes and the progress is zero.

    Raises:
        ValueError: If a run with other settings saved the state.
    """
    if not path.exists():
        return Progress()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["config"] != settings:
        raise ValueError(
            f"{path} was saved by a run with settings {metadata['config']}, but this run has "
            f"{settings}; use the same settings or another folder"
        )
    model.load_state_dict(_under("model", tensors))
    for kind, optimizer in optimizers.items():
        state = optimizer.state_dict()
        for key, tensor in _under(kind, tensors).items():
            index, name = key.split(".")
            state["state"].setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict(state)
    return Progress(**json.loads(metadata["progress"]))


def trim_log(path: Path, blocks: int) -> None:
    """Keep the log of the first `blocks` blocks; a killed run logged others after its last save."""
    lines = path.read_text().splitlines()[:blocks] if path.exists() else []
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in lines))
    os.replace(partial, path)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with this prefix, by the rest of their names."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
