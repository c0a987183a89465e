"""Run folders: what produced them stands in run.json, and a killed run continues where it was."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_lens.common.files import remove_abandoned, write_json
from mi_lens.common.provenance import versions
from mi_lens.config import GenerateConfig

# These change where and how fast results come, not what they are.
IMMATERIAL = ("out", "batch_size")


def open_run(config: GenerateConfig, model_name: str) -> Path:
    """Begins a run folder, or takes up the one that the same run began.

    Args:
        config: What to do; `config.out` is the folder.
        model_name: The model's fingerprint.

    Raises:
        FileExistsError: If the folder holds something else; nothing in it is touched, except for
            temporary files of processes of ours that were killed.
    """
    folder = config.out
    described = asdict(config)
    run = {
        "command": type(config).__name__.removesuffix("Config").lower(),
        "config": {k: v for k, v in described.items() if k not in IMMATERIAL},
        "model": model_name,
        "versions": versions(),
    }
    run = json.loads(json.dumps(run))
    record = folder / "run.json"
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file; give a folder that does not exist yet")
    for part in (folder, folder / "figures"):
        remove_abandoned(part)
    if record.exists():
        changed = _differences(json.loads(record.read_text(encoding="utf-8")), run)
        if changed:
            raise FileExistsError(
                f"{folder}: holds another run ({'; '.join(changed)}); give another --out, or "
                "remove that folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: exists, is not empty and holds no run of mi-lens; give another --out"
        )
    else:
        write_json(record, run)
    return folder


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{path}{key}.")
        elif a != b:
            found.append(f"{path}{key} was {a!r}, now {b!r}")
    return found
