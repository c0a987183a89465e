"""The folder of a sweep: its record, its units, and how far they are."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_lens.common.progress import duration
from mi_lens.common.provenance import content_hash, differences, versions
from mi_lens.common.records import (
    DamagedError,
    count_records,
    read_record,
    require_count,
    require_records,
    set_aside_damaged,
    write_record,
)
from mi_lens.interventions.condition import Condition
from mi_lens.problems.problem import Problem
from mi_lens.runs.folder import begun_record, problems_record
from mi_lens.runs.sweep_spec import RecordedSpec, Spec

DONE = "done.json"  # A unit is finished once its folder has this file.


@dataclass(frozen=True)
class Unit:
    """A few problems under all conditions with one model.

    Attributes:
        folder: The unit's own folder.
        model: Checkpoint.
        first: Index of the first problem.
        last: Index after the last problem.
    """

    folder: Path
    model: str
    first: int
    last: int


def inputs_of(problems: Sequence[Problem], conditions: Sequence[Condition]) -> dict[str, Any]:
    """The content of the files that a spec names: its problems, and its steering vectors."""
    inputs = {
        "problems": problems_record(problems),
        "conditions": {condition.name: condition.describe() for condition in conditions},
    }
    return json.loads(json.dumps(inputs))


def open_sweep(spec: Spec, folder: Path, inputs: dict[str, Any]) -> Path:
    """Creates a sweep's folder, or opens the one that the same sweep began.

    Args:
        spec: The sweep.
        folder: Its folder.
        inputs: What `inputs_of` returns.

    Raises:
        FileExistsError: If the folder holds something else, or a sweep that gives other results,
            because of its settings, versions, problems or vectors.
    """
    settings = json.loads(json.dumps(asdict(spec)))
    old = begun_record(folder, "sweep.json")
    if old is None:
        record = {"spec": settings, "versions": versions(), "inputs": inputs}
        write_record(folder / "sweep.json", record)
    else:
        for unit in folder.glob("units/*"):
            set_aside_damaged(unit)
        immaterial = {"batch_size", "device"}
        changed = sorted(
            key for key in settings.keys() - immaterial if old["spec"].get(key) != settings[key]
        )
        changed += [] if old["versions"] == versions() else ["versions"]
        changed += [f"content of {name}" for name in differences(old["inputs"], inputs)]
        if changed:
            raise FileExistsError(
                f"{folder}: holds another sweep (other {', '.join(changed)}); give another --out, "
                "or remove that folder"
            )
    return folder


def recorded_inputs(folder: Path) -> dict[str, Any]:
    """The inputs of the sweep in a folder."""
    return read_record(folder, "sweep.json")["inputs"]


def problem_count(folder: Path) -> int:
    """The number of a sweep's problems; their file need not exist any more."""
    return recorded_inputs(folder)["problems"]["count"]


def units(spec: Spec, folder: Path, problems: int) -> list[Unit]:
    """The units of a sweep, ordered by model."""
    return [
        Unit(
            folder=folder / "units" / f"{content_hash(model)[:8]}-{first:06d}",
            model=model,
            first=first,
            last=min(first + spec.unit, problems),
        )
        for model in spec.models
        for first in range(0, problems, spec.unit)
    ]


def read_spec(folder: Path) -> Spec:
    """The spec of the sweep in a folder.

    Raises:
        FileNotFoundError: If the folder holds no sweep.
    """
    return RecordedSpec.of(read_record(folder, "sweep.json")["spec"])


def waiting(spec: Spec, folder: Path, problems: int) -> list[Unit]:
    """Units that are not done, or whose files were altered since."""
    waiting_units = []
    for unit in units(spec, folder, problems):
        try:
            if is_done(unit):
                require_whole(unit.folder)
                continue
        except DamagedError:  # to be named, set aside and made again by the unit's own run
            pass
        waiting_units.append(unit)
    return waiting_units


def is_done(unit: Unit) -> bool:
    """Whether a unit has written its last record."""
    return (unit.folder / DONE).exists()


def read_done(unit: Unit) -> dict[str, Any]:
    """What a finished unit wrote last: its results and their settings."""
    return read_record(unit.folder, DONE)


def require_whole(unit: Path) -> None:
    """Raises a DamagedError if a file of a finished unit was altered, or lacks rows."""
    wanted = [result["trace"] for result in read_record(unit, DONE)["results"]]
    require_records(unit / "traces.jsonl", "id", wanted)
    require_records(unit / "results.jsonl", "trace", wanted)


def require_counts(folder: Path) -> None:
    """Raises a DamagedError if a file of a finished unit has lost lines; reads none of them."""
    for unit in units(read_spec(folder), folder, problem_count(folder)):
        if is_done(unit):
            traces = {result["trace"] for result in read_done(unit)["results"]}
            for name in ("traces.jsonl", "results.jsonl"):
                require_count(unit.folder / name, len(traces))


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is.

    Attributes:
        models: The sweep's models.
        problems: Where the problems come from.
        units: Number of units.
        done: Number of finished units.
        traces: Number of finished traces, including those of unfinished units.
        graded: Number of these that are graded.
        expected: Number of traces of the whole sweep.
        failed: Unit to the last line of its error.
        seconds_left: Time left for a single process, estimated from the mean time of the finished
            units; None before the first is finished.
    """

    models: tuple[str, ...]
    problems: str
    units: int
    done: int
    traces: int
    graded: int
    expected: int
    failed: dict[str, str]
    seconds_left: float | None

    def __str__(self) -> str:
        left = "unknown" if self.seconds_left is None else duration(self.seconds_left)
        finished = "yes" if self.done == self.units else f"no; left for one process: {left}"
        lines = [
            f"mi-lens sweep: {', '.join(self.models)} on {self.problems}",
            self.counts(),
            *(f"  failed: {unit}: {error}" for unit, error in self.failed.items()),
            f"finished: {finished}",
        ]
        return "\n".join(lines)

    def counts(self) -> str:
        """How many units and traces are done, on one line."""
        return (
            f"{self.done} of {self.units} units done, {self.traces:,} of {self.expected:,} traces, "
            f"{self.graded:,} graded"
        )


def sweep_progress(folder: Path) -> SweepProgress:
    """How far the sweep in a folder is.

    Raises:
        FileNotFoundError: If the folder holds no sweep.
    """
    spec = read_spec(folder)
    problems = problem_count(folder)
    all_units = units(spec, folder, problems)
    done = [read_done(unit) for unit in all_units if is_done(unit)]
    failed = {}
    for unit in all_units:
        if (unit.folder / "failed.json").exists():
            error = read_record(unit.folder, "failed.json")["error"]
            failed[unit.folder.name] = error.strip().splitlines()[-1]
    traces, graded = (
        sum(count_records(unit.folder / name) for unit in all_units)
        for name in ("traces.jsonl", "results.jsonl")
    )
    mean = sum(record["seconds"] for record in done) / len(done) if done else None
    return SweepProgress(
        models=spec.models,
        problems=spec.problems,
        units=len(all_units),
        done=len(done),
        traces=traces,
        graded=graded,
        expected=sum(unit.last - unit.first for unit in all_units) * _per_problem(spec),
        failed=failed,
        seconds_left=None if mean is None else mean * (len(all_units) - len(done)),
    )


def _per_problem(spec: Spec) -> int:
    """Number of traces that a problem gives with one model."""
    return len(spec.expand()) * len(spec.seeds)
