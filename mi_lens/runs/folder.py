"""Run folders: run.json says what produced them, and a killed run continues where it was.

A folder can be read back while another process still writes into it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from mi_lens.common.files import remove_abandoned, write_json
from mi_lens.common.provenance import versions
from mi_lens.information.per_trace.peak_rules import IQR
from mi_lens.runs.config import GenerateConfig
from mi_lens.traces.trace import Trace, trace_from_row

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
        begun = json.loads(record.read_text(encoding="utf-8"))
        begun["config"] = as_written_now(begun["config"])
        changed = _differences(begun, run)
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


Config = TypeVar("Config", bound=GenerateConfig)


def read_record(folder: str | Path, name: str = "run.json") -> dict[str, Any]:
    """What produced a folder, as its run.json (or another record) says.

    Raises:
        FileNotFoundError: If there is no such folder or no such record in it.
        ValueError: If the record is not a JSON object.
    """
    path = Path(folder) / name
    if not path.is_file():
        missing = "holds no run of mi-lens" if Path(folder).is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder}: {missing} (no {name}); give the --out of a mi-lens command"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: a {type(record).__name__}, expected a JSON object")
    return record


def config_of(record: Mapping[str, Any], kind: type[Config], folder: str | Path) -> Config:
    """The configuration that a run.json holds; the folder is its `out`.

    Raises:
        ValueError: If it has a setting that this version does not know.
    """
    known = {field.name for field in fields(kind)}
    written = as_written_now(record["config"])
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in written.items()}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"{folder}: its run.json has the settings {unknown}, which this version of mi_lens "
            f"does not know; it was made by mi-lens {record['versions'].get('mi-lens')}"
        )
    return kind(**{**settings, "out": Path(folder)})


def as_written_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run.json in today's names: a rule of peaks was once its tau alone."""
    renamed = dict(settings)
    if "tau" in renamed:
        renamed["peaks"] = repr(IQR(renamed.pop("tau")))
    return renamed


def whole_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without a last line that is still being written.

    Nothing is changed on disk. A file that is not there yet has no rows.
    """
    path = Path(path)
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines() if line]


def traces_so_far(path: str | Path) -> list[Trace]:
    """The traces of a traces.jsonl that may still grow, in the order in which they finished."""
    return [trace_from_row(row) for row in whole_rows(path)]
