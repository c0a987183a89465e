"""Which backend runs a model, where, and in which dtype: what is asked for, and what can be."""

from pathlib import Path
from typing import Any

import torch

from mi_lens.models.backends.lookup import backends_of, get_backend
from mi_lens.models.backends.protocol import Backend
from mi_lens.models.quantization import quantization_of

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_backend(config_file: Path, name: str, config: dict[str, Any], hf_config: Any) -> Backend:
    """The backend of this name; for "auto" the first that can load the model.

    Args:
        config_file: The file that says what the model is, for messages.
        name: "auto" or a backend's name.
        config: What it holds, by the names of config.json.
        hf_config: Hugging Face's config of it.

    Raises:
        ValueError: If the backend of this name, or every backend, would get the model wrong.
    """
    architecture = config["architectures"][0]
    method = quantization_of(config_file, config)
    known = backends_of(architecture)
    if name not in ("auto", *known):
        raise ValueError(
            f"{config_file}: backend {name!r} does not know architecture {architecture!r}; use "
            f"backend={known[0]!r}"
        )
    if method and name == "hooked":
        raise ValueError(
            f"{config_file}: the weights are quantised by {method!r}, and backend 'hooked' holds "
            "plain weights only; use backend='bridge', or the unquantised checkpoint"
        )
    if method and name == "auto":
        name = "bridge"
    for candidate in known if name == "auto" else [name]:
        backend = get_backend(candidate)
        try:
            backend.require_buildable(hf_config)
        except ValueError:
            if candidate == known[-1] or name != "auto":
                raise
        else:
            return backend
    raise AssertionError("the last backend either raises or is returned")


def parse_device(device: torch.device | str | None) -> torch.device:
    """The device by this name; by default a GPU if there is one.

    Raises:
        ValueError: If it is not available here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {str(device)!r} is not available here: {error}") from error
    return torch.device(device)


def placement(backend: str, device: Any, n_devices: int) -> dict[str, Any]:
    """The arguments with which Hugging Face spreads the layers; none for one device.

    Raises:
        ValueError: If the backend cannot, or there are fewer GPUs.
    """
    if n_devices == 1:
        return {}
    if n_devices < 1:
        raise ValueError(f"n_devices={n_devices}: expected at least 1")
    if backend != "bridge" or device is not None:
        raise ValueError(
            f"n_devices={n_devices} with backend {backend!r} and device {device!r}: layers are "
            "spread over GPUs by backend='bridge' only, which chooses the GPUs itself (leave "
            "device out); backend 'hooked' runs on one device"
        )
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    device_map, max_memory = resolve_device_map(n_devices, None, None)
    return {"device_map": device_map, "max_memory": max_memory}


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """The dtype by this name.

    Raises:
        ValueError: If it is none of `DTYPES`.
    """
    parsed = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if parsed is None or parsed not in DTYPES.values():
        raise ValueError(f"dtype {dtype!r} is not supported; choose one of {list(DTYPES)}")
    return parsed


def default_dtype(config: dict[str, Any], device: torch.device) -> torch.dtype:
    """The dtype in which a checkpoint with this config runs if none is asked for; see `load`."""
    own = DTYPES.get(config.get("dtype") or config.get("torch_dtype") or "", torch.float32)
    if config.get("quantization_config") is not None:
        return own  # the quantised layers were made for it
    return torch.float32 if device.type == "cpu" or own == torch.float16 else own
