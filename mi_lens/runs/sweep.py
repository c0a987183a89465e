"""Sweeps: models x problems x conditions x seeds from one file, in units that survive a kill.

A spec is cut into units; a unit is a few problems under all conditions with one model. The
conditions of a unit share a batch, and the conditions of a prompt share a row until they differ
(`decoding`). Every unit has its own folder, so units can run anywhere and in any order, and results
on disk are not computed again. The results of a sweep can be read from the folders at any time.
"""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_lens.common.files import whole_rows, write_json
from mi_lens.common.parquet import write_table
from mi_lens.common.provenance import content_hash, versions
from mi_lens.evaluation.evaluate import Evaluation, evaluate_with
from mi_lens.evaluation.result import Result, whole_problems
from mi_lens.generation.request import Plan
from mi_lens.runs.sweep_spec import RecordedSpec, Spec


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


def open_sweep(spec: Spec, folder: Path) -> Path:
    """Creates a sweep's folder, or opens the one that the same sweep began.

    Raises:
        FileExistsError: If the folder holds something else, or a sweep that gives other results.
    """
    settings = json.loads(json.dumps(asdict(spec)))
    record = folder / "sweep.json"
    if record.exists():
        old = json.loads(record.read_text(encoding="utf-8"))
        immaterial = {"batch_size", "device"}
        changed = sorted(
            key for key in settings.keys() - immaterial if old["spec"].get(key) != settings[key]
        )
        changed += [] if old["versions"] == versions() else ["versions"]
        if changed:
            raise FileExistsError(
                f"{folder}: holds another sweep (other {', '.join(changed)}); give another --out, "
                "or remove that folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: exists, is not empty and holds no sweep; give another --out"
        )
    else:
        write_json(record, {"spec": settings, "versions": versions()})
    return folder


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


class Worker:
    """Runs units; one model at a time is in memory."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.problems = spec.load_problems()
        self.conditions = spec.expand()
        self._prepared: tuple[str, Plan] | None = None

    def run(self, unit: Unit) -> None:
        """Runs the unfinished part of a unit; writes an error to its folder, and raises it."""
        unit.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        try:
            plan = self._plan(unit.model)
            _require_same_model(unit, plan.fingerprint)
            evaluation = evaluate_with(
                plan,
                self.problems[unit.first : unit.last],
                self.conditions,
                self.spec.seeds,
                style=self.spec.style,
                max_new_tokens=self.spec.max_new_tokens,
                stop=self.spec.stop,
                batch_size=self.spec.batch_size,
                folder=unit.folder,
                progress=False,
            )
        except Exception:
            write_json(unit.folder / "failed.json", {"error": traceback.format_exc()})
            raise
        (unit.folder / "failed.json").unlink(missing_ok=True)
        done = {
            "model": unit.model,
            "fingerprint": plan.fingerprint,
            "results": [asdict(result) for result in evaluation.results],
            "setting": evaluation.setting,
            "conditions": evaluation.conditions,
            "seconds": time.time() - started,
        }
        write_json(unit.folder / "done.json", done)

    def _plan(self, name: str) -> Plan:
        if self._prepared is None or self._prepared[0] != name:
            self._prepared = None  # Frees the old model first: two may not fit in memory.
            self._prepared = name, Plan(self.spec.load_model(name))
        return self._prepared[1]


def _require_same_model(unit: Unit, fingerprint: str) -> None:
    key = unit.folder.name.split("-")[0]
    for path in unit.folder.parent.glob(f"{key}-*/done.json"):
        old = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        if old != fingerprint:
            raise ValueError(
                f"{unit.model} is now {fingerprint}, and {path.parent.name} was run with {old}: "
                "the checkpoint has changed; give another --out, or remove the units of the old "
                "checkpoint"
            )


def run_sweep(spec: Spec, folder: Path) -> dict[str, Evaluation]:
    """Runs a sweep in this process; if a unit fails, the others still run.

    Returns:
        The same as `results`.

    Raises:
        RuntimeError: At the end, if units failed. Their results so far are kept, and they are tried
            again when the sweep is run again.
    """
    worker = Worker(spec)
    open_sweep(spec, folder)
    failed = []
    for unit in waiting(spec, folder, len(worker.problems)):
        try:
            worker.run(unit)
        except Exception as error:
            failed.append(f"{unit.folder.name}: {error}")
    raise_failed(failed)
    return results(folder)


def waiting(spec: Spec, folder: Path, problems: int) -> list[Unit]:
    """Units that are not done."""
    all_units = units(spec, folder, problems)
    return [unit for unit in all_units if not (unit.folder / "done.json").exists()]


def raise_failed(failed: Sequence[str]) -> None:
    """Raises a RuntimeError that names the failed units, if there are any."""
    if failed:
        raise RuntimeError(
            f"{len(failed)} units failed, first {failed[0]}; each of their folders holds a "
            "failed.json; run the sweep again to try them again"
        )


@dataclass(frozen=True)
class Status:
    """The progress of a sweep.

    Attributes:
        units: Number of units.
        done: Number of finished units.
        traces: Number of finished traces, including those of unfinished units.
        expected: Number of traces of the whole sweep.
        failed: Unit to the last line of its error.
        seconds_left: Time left for a single process, estimated from the mean time of the finished
            units; None before the first is finished.
    """

    units: int
    done: int
    traces: int
    expected: int
    failed: dict[str, str]
    seconds_left: float | None

    def __str__(self) -> str:
        left = "unknown" if self.seconds_left is None else f"{self.seconds_left / 60:.1f} min"
        lines = [
            f"{self.done} of {self.units} units done, {self.traces} of {self.expected} traces; "
            f"left for one process: {left}"
        ]
        lines += [f"  failed: {unit}: {error}" for unit, error in self.failed.items()]
        return "\n".join(lines)


def status(folder: Path) -> Status:
    """The progress of the sweep in a folder.

    Raises:
        FileNotFoundError: If the folder holds no sweep.
    """
    spec = read_spec(folder)
    problems = len(spec.load_problems())
    all_units = units(spec, folder, problems)
    done = [_read_done(unit) for unit in all_units if (unit.folder / "done.json").exists()]
    failed, traces = {}, 0
    for unit in all_units:
        if (unit.folder / "failed.json").exists():
            error = json.loads((unit.folder / "failed.json").read_text(encoding="utf-8"))["error"]
            failed[unit.folder.name] = error.strip().splitlines()[-1]
        path = unit.folder / "traces.jsonl"
        if path.exists():
            with path.open("rb") as file:
                traces += sum(1 for _ in file)
    per_problem = len(spec.expand()) * len(spec.seeds) * len(spec.models)
    mean = sum(record["seconds"] for record in done) / len(done) if done else None
    left = None if mean is None else mean * (len(all_units) - len(done))
    return Status(len(all_units), len(done), traces, problems * per_problem, failed, left)


def results(folder: Path) -> dict[str, Evaluation]:
    """The results of a sweep so far: model to the evaluation of its finished problems.

    In an unfinished unit, a problem is finished once all its conditions and seeds have results.

    Raises:
        FileNotFoundError: If the folder holds no sweep.
        ValueError: If units of a model were run with different settings.
    """
    spec = read_spec(folder)
    conditions = spec.expand()
    evaluations: dict[str, Evaluation] = {}
    for model in spec.models:
        setting: dict[str, Any] = {}
        settings_by_name: dict[str, Any] = {}
        rows: list[Result] = []
        for unit in units(spec, folder, len(spec.load_problems())):
            if unit.model != model:
                continue
            if (unit.folder / "done.json").exists():
                done = _read_done(unit)
                if setting and {**setting, "device": ""} != {**done["setting"], "device": ""}:
                    raise ValueError(
                        f"{unit.folder}: run with {done['setting']}, other units with {setting}; "
                        "remove this folder and run the sweep again"
                    )
                setting, settings_by_name = done["setting"], done["conditions"]
                rows += [Result(**row) for row in done["results"]]
            else:
                rows_so_far = whole_rows(unit.folder / "results.jsonl")
                per_problem = len(conditions) * len(spec.seeds)
                rows += whole_problems([Result(**row) for row in rows_so_far], per_problem)
        if rows:
            order = {condition.name: i for i, condition in enumerate(conditions)}
            rows.sort(key=lambda row: order.get(row.condition, len(order)))
            evaluations[model] = Evaluation(tuple(rows), setting, settings_by_name)
    return evaluations


def write_results(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """Writes all results to one Parquet table, with a column for the model."""
    rows = ((model, row) for model, each in evaluations.items() for row in each.results)
    write_table(({"model": model, **asdict(row)} for model, row in rows), path)


def read_spec(folder: Path) -> Spec:
    """The spec of the sweep in a folder.

    Raises:
        FileNotFoundError: If the folder holds no sweep.
    """
    record = folder / "sweep.json"
    if not record.is_file():
        raise FileNotFoundError(f"{folder}: holds no sweep (no sweep.json)")
    return RecordedSpec.of(json.loads(record.read_text(encoding="utf-8"))["spec"])


def _read_done(unit: Unit) -> dict[str, Any]:
    return json.loads((unit.folder / "done.json").read_text(encoding="utf-8"))
