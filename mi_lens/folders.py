"""Reading a run's folder back, also while another process still writes into it."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from mi_lens.config import GenerateConfig
from mi_lens.traces.trace import Trace, trace_from_row

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
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in record["config"].items()}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"{folder}: its run.json has the settings {unknown}, which this version of mi_lens "
            f"does not know; it was made by mi-lens {record['versions'].get('mi-lens')}"
        )
    return kind(**{**settings, "out": Path(folder)})


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
