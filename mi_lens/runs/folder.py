"""Run folders: run.json says what produced them, and a killed run continues where it stopped.

A folder can be read while another process is still writing to it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from mi_lens.common.files import PARTIAL, remove_abandoned
from mi_lens.common.provenance import content_hash, differences, versions
from mi_lens.common.records import (
    DAMAGED,
    DamagedError,
    read_record,
    read_records,
    set_aside,
    set_aside_damaged,
    write_record,
)
from mi_lens.interventions.condition import Condition
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import GenerateConfig
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import trace_from_row

# These change where results are written and how fast, but not the results.
IMMATERIAL = ("out", "batch_size")
READER = "reader"  # In run.json: the model that reads traces of another engine.
# What mi-lens writes to a folder of a run or a sweep.
WRITTEN = {
    *("run.json", "traces.jsonl", "activations", "readings.jsonl", "peaks.json", "controls.json"),
    "belief.jsonl",
    *("thinking_tokens.json", "figures", "report.html", "results.jsonl", "results.parquet"),
    *("generated.json", "evaluation.json", "condition_sets.json", "for_sets"),
    *("sweep.json", "units"),
    *("lens.safetensors", "training.safetensors", "divergences.jsonl", "lens.json"),
    "effects.jsonl",
}


def problems_record(problems: Sequence[Problem]) -> dict[str, Any]:
    """What stands for problems in a record: how many they are, and a hash of their content."""
    return {"count": len(problems), "content": content_hash(list(map(asdict, problems)))}


def open_run(
    config: GenerateConfig,
    model_name: str,
    engine: str,
    problems: Sequence[Problem],
    conditions: Sequence[Condition],
    of_sets: Mapping[str, Any] | None = None,
) -> Path:
    """Creates a run folder, or opens the one that the same run began.

    Args:
        config: The configuration of the run; `config.out` is the folder.
        model_name: The model's fingerprint.
        engine: The name of the engine that generates.
        problems: The problems of the run.
        conditions: The conditions of the run. Their content counts, not only the texts that name
            them: a text may name a file of vectors.
        of_sets: Text of each set of conditions to the record of the problems that it is made from.

    Raises:
        FileExistsError: If the folder holds anything other than this run. Nothing in it is touched,
            except for temporary files that killed processes of mi_lens left behind.
    """
    settings = asdict(config)
    run = {
        "command": type(config).__name__.removesuffix("Config").lower(),
        "config": {k: v for k, v in settings.items() if k not in IMMATERIAL},
        "model": model_name,
        "engine": engine,
        "versions": versions(),
        "problems": problems_record(problems),
        "content of conditions": {c.name: content_hash(c.describe()) for c in conditions},
        **({"problems of sets": of_sets} if of_sets else {}),
    }
    return begin_run(config.out, json.loads(json.dumps(run)))


def begin_run(folder: Path, run: dict[str, Any]) -> Path:
    """Creates the folder of a run with its run.json, or opens the one that the same run began.

    Raises:
        FileExistsError: See `open_run`.
    """
    begun = begun_record(folder, "run.json")
    if begun is None:
        write_record(folder / "run.json", run)
    else:
        changed = differences({k: v for k, v in begun.items() if k != READER}, run)
        if changed:
            changes = "; ".join(f"{name} was {a!r}, now {b!r}" for name, (a, b) in changed.items())
            raise FileExistsError(
                f"{folder}: holds another run ({changes}); give another --out, or remove that "
                "folder"
            )
    return folder


def record_reader(folder: Path, model_name: str) -> None:
    """Writes into run.json which model reads the traces that another engine generated.

    Its fingerprint is known only once the engine has freed the memory that the model needs.

    Raises:
        FileExistsError: If another model read traces of this run before.
    """
    run = read_record(folder)
    if READER not in run:
        write_record(folder / "run.json", run | {READER: model_name})
    elif run[READER] != model_name:
        raise FileExistsError(
            f"{folder}: its traces were read by model {run[READER]}, and the model is now "
            f"{model_name}; give another --out, or remove that folder"
        )


def begun_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of the run that began in a folder; None if one is still to begin there.

    Altered records are set aside. If what produced the folder is among them, everything is set
    aside that does not itself say what produced it: all but traces and states.

    Raises:
        FileExistsError: If the folder is a file, or holds anything that mi-lens does not write.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file; give a folder that does not exist yet")
    for part in (folder, folder / "figures"):
        remove_abandoned(part)
    record = folder / name
    foreign = f"{folder}: exists, is not empty and holds no run of mi-lens; give another --out"
    if not record.exists():
        set_aside_before = any(folder.glob(f"{name}*{DAMAGED}"))
        there = [] if not folder.exists() else [path.name for path in folder.iterdir()]
        # Another process may be about to write the record: its partial file says nothing else.
        if any(not name.endswith(PARTIAL) for name in there) and not set_aside_before:
            raise FileExistsError(foreign)
        return None
    try:
        begun = read_record(folder, name)
    except DamagedError as error:
        names = {path.name for path in folder.glob("[!.]*") if path.suffix != DAMAGED}
        if not names <= WRITTEN:
            raise FileExistsError(f"{foreign} ({error})") from None
        _set_aside_all_but_traces(folder, record, str(error))
        return None
    set_aside_damaged(folder)
    return begun


def _set_aside_all_but_traces(folder: Path, record: Path, why: str) -> None:
    for path in sorted(folder.rglob("*.json*")):
        kept = path == record or path.name == "traces.jsonl" or path.parent.name == "figures"
        if path.suffix in (".json", ".jsonl") and not kept:
            set_aside(path, f"{path}: {record.name} is damaged, so what made this file is unknown")
    set_aside(record, why)  # last: a kill before this line changes nothing for the next attempt


Config = TypeVar("Config", bound=GenerateConfig)


def config_of(record: Mapping[str, Any], kind: type[Config], folder: str | Path) -> Config:
    """The configuration in a run.json, with `folder` as its `out`.

    Raises:
        ValueError: If the run.json has a setting that this version does not know.
    """
    known = {field.name for field in fields(kind)}
    written = record["config"].items()
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in written}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"{folder}: its run.json has the settings {unknown}, which this version of mi_lens "
            f"does not know; the run was made by mi-lens {record['versions'].get('mi-lens')}"
        )
    return kind(**{**settings, "out": Path(folder)})


def traces_so_far(path: str | Path) -> list[Trace]:
    """The traces of a traces.jsonl that may still grow, in the order in which they finished."""
    return [trace_from_row(row) for row in read_records(path)]
