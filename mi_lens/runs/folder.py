"""Run folders: run.json says what produced them, and a killed run continues where it stopped.

A folder can be read while another process is still writing to it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from mi_lens.common.files import remove_abandoned, whole_rows, write_json
from mi_lens.common.provenance import content_hash, differences, versions
from mi_lens.information.per_trace.peak_rules import IQR
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import GenerateConfig
from mi_lens.traces.trace import Trace, trace_from_row

# These change where results are written and how fast, but not the results.
IMMATERIAL = ("out", "batch_size")


def problems_record(problems: Sequence[Problem]) -> dict[str, Any]:
    """What stands for problems in a record: how many they are, and a hash of their content."""
    return {"count": len(problems), "content": content_hash(list(map(asdict, problems)))}


def open_run(config: GenerateConfig, model_name: str, problems: Sequence[Problem]) -> Path:
    """Creates a run folder, or opens the one that the same run began.

    Args:
        config: The configuration of the run; `config.out` is the folder.
        model_name: The model's fingerprint.
        problems: The problems of the run.

    Raises:
        FileExistsError: If the folder holds anything other than this run. Nothing in it is touched,
            except for temporary files that killed processes of mi_lens left behind.
    """
    folder = config.out
    settings = asdict(config)
    run = {
        "command": type(config).__name__.removesuffix("Config").lower(),
        "config": {k: v for k, v in settings.items() if k not in IMMATERIAL},
        "model": model_name,
        "versions": versions(),
        "problems": problems_record(problems),
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
        begun.setdefault("problems", run["problems"])  # older runs do not say
        changed = differences(begun, run)
        if changed:
            changes = "; ".join(f"{name} was {a!r}, now {b!r}" for name, (a, b) in changed.items())
            raise FileExistsError(
                f"{folder}: holds another run ({changes}); give another --out, or remove that "
                "folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: exists, is not empty and holds no run of mi-lens; give another --out"
        )
    else:
        write_json(record, run)
    return folder


Config = TypeVar("Config", bound=GenerateConfig)


def config_of(record: Mapping[str, Any], kind: type[Config], folder: str | Path) -> Config:
    """The configuration in a run.json, with `folder` as its `out`.

    Raises:
        ValueError: If the run.json has a setting that this version does not know.
    """
    known = {field.name for field in fields(kind)}
    current = as_written_now(record["config"])
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in current.items()}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"{folder}: its run.json has the settings {unknown}, which this version of mi_lens "
            f"does not know; the run was made by mi-lens {record['versions'].get('mi-lens')}"
        )
    return kind(**{**settings, "out": Path(folder)})


def as_written_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run.json under current names: older files have `tau`, not `peaks`."""
    renamed = dict(settings)
    if "tau" in renamed:
        renamed["peaks"] = repr(IQR(renamed.pop("tau")))
    return renamed


def traces_so_far(path: str | Path) -> list[Trace]:
    """The traces of a traces.jsonl that may still grow, in the order in which they finished."""
    return [trace_from_row(row) for row in whole_rows(path)]
