"""Sweeps: models x problems x conditions x seeds from one file, in units that survive a kill.

A spec is cut into units; a unit is a few problems under all conditions with one model. The
conditions of a unit share a batch, and the conditions of a prompt share a row until they differ
(`decoding`). Every unit has its own folder, so units can run anywhere and in any order, and results
on disk are not computed again. The results of a sweep can be read from the folders at any time.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_lens.common.checked_types import require_distinct
from mi_lens.common.parquet import write_table
from mi_lens.common.progress import Progress
from mi_lens.common.provenance import differences
from mi_lens.common.records import read_record, read_records, write_record
from mi_lens.common.writing import writing
from mi_lens.evaluation.evaluate import Evaluation, evaluate_with
from mi_lens.evaluation.result import Result, whole_problems
from mi_lens.generation.engines.lookup import maker_of
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request, require_room
from mi_lens.models.loading import load_outline
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle, encode_prompt
from mi_lens.runs.settings import OWN
from mi_lens.runs.sweep_folder import (
    DONE,
    Unit,
    inputs_of,
    is_done,
    open_sweep,
    problem_count,
    read_done,
    read_spec,
    recorded_inputs,
    sweep_progress,
    units,
    waiting,
)
from mi_lens.runs.sweep_spec import Point, Spec


class Worker:
    """Runs units; one model at a time is in memory."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.problems = spec.load_problems()
        self.conditions = spec.expand()
        self.inputs = inputs_of(self.problems, self.conditions)
        self._prepared: tuple[str, Plan] | None = None

    def run(self, unit: Unit, on_result: Callable[[], object] = lambda: None) -> None:
        """Runs the unfinished part of a unit; writes an error to its folder, and raises it.

        Args:
            unit: The unit.
            on_result: Called after each new result.
        """
        unit.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        try:
            _require_same_inputs(unit, self.inputs)
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
                owns_folder=True,
                on_result=on_result,
            )
        except Exception:
            write_record(unit.folder / "failed.json", {"error": traceback.format_exc()})
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
        write_record(unit.folder / DONE, done)

    def _plan(self, name: str) -> Plan:
        if self._prepared is None or self._prepared[0] != name:
            self.close()  # Frees the old model first: two may not fit in memory.
            self._prepared = name, Plan(self.spec.load_engine(name))
        return self._prepared[1]

    def close(self) -> None:
        """Frees the model in memory, if there is one."""
        if self._prepared is not None:
            self._prepared[1].engine.close()
        self._prepared = None


def _require_same_inputs(unit: Unit, inputs: dict[str, Any]) -> None:
    """A worker that starts late may find other files than the sweep began with."""
    began = recorded_inputs(unit.folder.parent.parent)
    if changed := differences(began, inputs):
        raise ValueError(
            f"{unit.folder.name}: the content of {', '.join(changed)} is not what the sweep began "
            "with; put the files back, or give another --out"
        )


def _require_same_model(unit: Unit, fingerprint: str) -> None:
    key = unit.folder.name.split("-")[0]
    for path in unit.folder.parent.glob(f"{key}-*/{DONE}"):
        old = read_record(path.parent, DONE)["fingerprint"]
        if old != fingerprint:
            raise ValueError(
                f"{unit.model} is now {fingerprint}, and {path.parent.name} was run with {old}: "
                "the checkpoint has changed; give another --out, or remove the units of the old "
                "checkpoint"
            )


def run_sweep(spec: Spec, folder: Path, *, progress: bool = True) -> dict[str, Evaluation]:
    """Runs a sweep in this process; if a unit fails, the others still run.

    Args:
        spec: The sweep to run.
        folder: The sweep's folder.
        progress: See `generate`.

    Returns:
        The same as `results`.

    Raises:
        ValueError: Before anything runs, if a condition does not fit a model.
        RuntimeError: At the end, if units failed. Their results so far are kept, and they are tried
            again when the sweep is run again.
    """
    worker = Worker(spec)
    count = len(worker.problems)
    require_fitting(spec, units(spec, folder, count), worker.problems)
    open_sweep(spec, folder, worker.inputs)
    todo = waiting(spec, folder, count)
    failed = []
    so_far = sweep_progress(folder)
    with (
        closing(worker),
        writing(folder / "sweep.json"),
        Progress(so_far.expected, "sweep", "trace", progress, so_far.graded) as bar,
    ):
        for unit in todo:
            try:
                worker.run(unit, bar.update)
            except Exception as error:
                failed.append(f"{unit.folder.name}: {error}")
    raise_failed(failed)
    return results(folder)


def require_fitting(spec: Spec, all_units: Sequence[Unit], problems: Sequence[Problem]) -> None:
    """Refuses what does not fit the engine, or a model of unfinished units; reads no weights.

    Raises:
        ValueError: If a condition asks for what the engine does not do; if a layer, hook name,
            word or width of a condition does not fit, and the message names near ones; or if a
            problem cannot be asked, or two have the same id.
    """
    require_distinct("problems", [(problem.source, problem.id) for problem in problems])
    _require_accepted(spec)
    for model in dict.fromkeys(unit.model for unit in all_units if not is_done(unit)):
        outline = load_outline(model, spec.backend, spec.think)
        for condition in spec.expand():
            for intervention in condition.interventions:
                try:
                    intervention.bind(outline)
                except ValueError as error:
                    raise ValueError(f"{model}, condition {condition.name!r}: {error}") from None
                except RuntimeError:  # it reads weights: the unit itself will bind it
                    continue
        _require_askable(outline, model, problems, spec.style)


def _require_accepted(spec: Spec) -> None:
    if spec.engine == OWN:  # It can do all.
        return
    for condition in spec.expand():
        request = Request("", condition, spec.style, 0, spec.max_new_tokens, spec.stop)
        if refused := maker_of(spec.engine).refusal(request):
            raise ValueError(
                f"condition {condition.name!r} asks for {refused}; engine {spec.engine!r} does not "
                f"do this: leave it out, or use engine {OWN!r}"
            )


def _require_askable(
    outline: Model, name: str, problems: Sequence[Problem], style: PromptStyle
) -> None:
    if outline.tokenizer is None:
        raise ValueError(f"{name}: the model has no tokenizer")
    for problem in problems:
        length = len(encode_prompt(outline.tokenizer, problem.question, style)[1])
        require_room(f"{name}, problem {problem.id}", problem.question, length, outline.cfg.n_ctx)


def raise_failed(failed: Sequence[str]) -> None:
    """Raises a RuntimeError that names the failed units, if there are any."""
    if failed:
        raise RuntimeError(
            f"{len(failed)} units failed, first {failed[0]}; each of their folders holds a "
            "failed.json; run the sweep again to try them again"
        )


def results(folder: Path) -> dict[str, Evaluation]:
    """The results of a sweep so far: model to the evaluation of its finished problems.

    In an unfinished unit, a problem is finished once all its conditions and seeds have results.

    Raises:
        FileNotFoundError: If the folder holds no sweep.
        ValueError: If units of a model were run with different settings.
    """
    spec = read_spec(folder)
    conditions = spec.expand()
    problems = problem_count(folder)
    evaluations: dict[str, Evaluation] = {}
    for model in spec.models:
        setting: dict[str, Any] = {}
        settings_by_name: dict[str, Any] = {}
        rows: list[Result] = []
        for unit in units(spec, folder, problems):
            if unit.model != model:
                continue
            if is_done(unit):
                done = read_done(unit)
                if setting and {**setting, "device": ""} != {**done["setting"], "device": ""}:
                    raise ValueError(
                        f"{unit.folder}: run with {done['setting']}, other units with {setting}; "
                        "remove this folder and run the sweep again"
                    )
                setting, settings_by_name = done["setting"], done["conditions"]
                rows += [Result(**row) for row in done["results"]]
            else:
                rows_so_far = read_records(unit.folder / "results.jsonl")
                per_problem = len(conditions) * len(spec.seeds)
                rows += whole_problems([Result(**row) for row in rows_so_far], per_problem)
        if rows:
            order = {condition.name: i for i, condition in enumerate(conditions)}
            rows.sort(key=lambda row: order.get(row.condition, len(order)))
            evaluations[model] = Evaluation(tuple(rows), setting, settings_by_name)
    return evaluations


def write_results(
    evaluations: Mapping[str, Evaluation], points: Sequence[Point], path: Path
) -> None:
    """Writes all results to one Parquet table, with columns for the model and the grid's values.

    Args:
        evaluations: What `results` returns.
        points: What `Spec.points` returns. A condition that does not use a name of the grid has no
            value in its column. A column whose values are not all numbers or all texts holds texts.
        path: The file.
    """
    values = {point.condition.name: point.values for point in points}
    texts = [name for name, kinds in _kinds(points).items() if len(kinds) > 1]

    def of_grid(condition: str) -> dict[str, Any]:
        at = values.get(condition, {})
        return {name: str(value) if name in texts else value for name, value in at.items()}

    rows = ((model, row) for model, each in evaluations.items() for row in each.results)
    write_table(
        ({"model": model, **asdict(row), **of_grid(row.condition)} for model, row in rows), path
    )


def _kinds(points: Sequence[Point]) -> dict[str, set[type]]:
    """Name in the grid to the types of its values; whole numbers count as numbers."""
    kinds: dict[str, set[type]] = {}
    for point in points:
        for name, value in point.values.items():
            kind = float if type(value) in (int, float) else type(value)
            kinds.setdefault(name, set()).add(kind if kind in (float, bool) else str)
    return kinds
