"""Tries conditions on problems; keeps the results and shows them as a paired table.

    evaluation = evaluate(model, problems, conditions, seeds=[0, 1])
    print(evaluation.report())

Every condition is tried on every problem: comparisons are paired by problem (`comparison`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mi_lens.common.checked_types import require_distinct
from mi_lens.common.html import table
from mi_lens.common.parquet import read_table
from mi_lens.common.provenance import versions
from mi_lens.common.records import (
    append_record,
    continue_records,
    read_record,
    read_records,
    require_checksum,
    set_aside_foreign,
)
from mi_lens.common.writing import only_writer
from mi_lens.evaluation.comparison import Arm, Comparison, compare_all
from mi_lens.evaluation.condition_sets import names_in
from mi_lens.evaluation.graded_traces import grade_trace
from mi_lens.evaluation.result import Result, result_from_table, whole_problems
from mi_lens.evaluation.table import report, report_table
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.interventions.condition import Condition
from mi_lens.models.attached_hooks import FwdHooks
from mi_lens.models.model import Model
from mi_lens.problems.grading.sandbox import isolation
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle
from mi_lens.traces.trace import Trace

LAST_WRITTEN = "evaluation.json"  # A run is finished once its folder has this file.


@dataclass(frozen=True)
class Evaluation:
    """Results of several conditions on the same problems.

    Attributes:
        results: One result per condition, problem and seed.
        setting: The settings shared by all conditions, as in `Arm`.
        conditions: Name of each condition to its settings.
    """

    results: tuple[Result, ...]
    setting: dict[str, Any]
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> "Evaluation":
        """Reads back what `mi-lens evaluate` wrote; no model is loaded.

        An unfinished run gives the results of the problems that all conditions have answered with
        every seed; there may be none yet. Its setting then holds only the budget, and `conditions`
        is empty.

        Args:
            folder: The run's folder; nothing in it is changed.

        Raises:
            FileNotFoundError: If the folder holds no run.
            ValueError: If the run belongs to another command.
        """
        folder = Path(folder)
        record = read_record(folder)
        if (command := record.get("command")) != "evaluate":
            raise ValueError(
                f"{folder}: a run of mi-lens {command}; expected one of mi-lens evaluate"
            )
        if (folder / LAST_WRITTEN).exists():
            written = read_record(folder, LAST_WRITTEN)
            path = folder / "results.parquet"
            require_checksum(path, written["results"])
            results = tuple(map(result_from_table, read_table(path)))
            return cls(results, written["setting"], written["conditions"])
        config = record["config"]
        names = names_in(folder, config["conditions"])
        rows = [Result(**row) for row in read_records(folder / "results.jsonl")]
        results = whole_problems(rows, len(names) * len(config["seeds"]))
        order = {name: i for i, name in enumerate(names)}
        results.sort(key=lambda result: order.get(result.condition, len(order)))
        return cls(tuple(results), {"max_new_tokens": config["max_new_tokens"]}, {})

    def __repr__(self) -> str:
        arms = [repr(self.arm(name)) for name in self.names[:2]]
        more = "" if len(self.names) < 3 else f", ... {len(self.names)} conditions"
        return f"Evaluation({', '.join(arms)}{more})"

    @property
    def names(self) -> list[str]:
        """Names of the conditions, in order."""
        return list(dict.fromkeys(result.condition for result in self.results))

    def arm(self, name: str) -> Arm:
        """The results of one condition.

        Raises:
            ValueError: If there is no such condition.
        """
        results = tuple(r for r in self.results if r.condition == name)
        if not results:
            raise ValueError(f"no condition {name!r} among {self.names}")
        return Arm(name, results, self.setting)

    def comparisons(self, against: str | None = None) -> list[Comparison]:
        """Compares every other condition with `against`, with Holm's correction.

        Args:
            against: Name of a condition; None takes the first.
        """
        return compare_all(*self._arms(against))

    def report(self, against: str | None = None) -> str:
        """The paired table as text."""
        return report(*self._arms(against))

    def _repr_html_(self) -> str:
        return report_table(*self._arms(None)) if self.results else table({"problems": 0})

    def _arms(self, against: str | None) -> tuple[list[Arm], Arm]:
        if not self.results:
            raise ValueError("no problem has been answered under every condition yet")
        base = against or self.names[0]
        return [self.arm(name) for name in self.names if name != base], self.arm(base)


def evaluate(
    model: Model | Engine,
    problems: Sequence[Problem],
    conditions: Sequence[Condition],
    seeds: Sequence[int] = (0,),
    *,
    style: PromptStyle = "chat",
    max_new_tokens: int = 512,
    stop: Sequence[str | int] = (),
    fwd_hooks: FwdHooks = (),
    hooks_named: str = "",
    batch_size: int = 16,
    folder: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Tries every condition on every problem with every seed, in mixed batches.

    Args:
        model: See `generate`.
        problems: Problems with gold answers.
        conditions: Conditions with different names; the others are compared with the first.
        seeds: Sampling seeds; several are useful only if tokens are sampled.
        style: See `mi_lens.problems.prompts.prompt_text`.
        max_new_tokens: Budget of each trace.
        stop: See `Request`.
        fwd_hooks: See `generate`.
        hooks_named: See `generate`. It is a setting of the evaluation, in which two may differ.
        batch_size: Rows decoded together; changes speed and memory, not tokens.
        folder: Where traces.jsonl and results.jsonl are written, each row as soon as it is
            finished. Rows of this evaluation that are already there are not computed again.
        progress: See `generate`.

    Raises:
        ValueError: If conditions share a name; if there is a folder and hooks without a name; or
            for the reasons of `generate`.
    """
    return evaluate_with(
        Plan(model, fwd_hooks, hooks_named),
        problems,
        conditions,
        seeds,
        style=style,
        max_new_tokens=max_new_tokens,
        stop=stop,
        batch_size=batch_size,
        folder=folder,
        progress=progress,
    )


def evaluate_with(
    plan: Plan,
    problems: Sequence[Problem],
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    *,
    style: PromptStyle,
    max_new_tokens: int,
    stop: Sequence[str | int],
    batch_size: int,
    folder: Path | None,
    progress: bool = True,
    owns_folder: bool = False,
    on_result: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Does what `evaluate` does, with a plan that the caller has already built.

    If the evaluation owns the folder, others' rows are set aside. `on_result` follows each result.
    """
    plan.hooks.check(folder)
    requests = requests_of(
        problems, conditions, seeds, style=style, max_new_tokens=max_new_tokens, stop=stop
    )
    with nullcontext() if folder is None else only_writer(folder):
        if folder is not None and owns_folder:
            ids = set(map(plan.trace_id, requests))
            set_aside_foreign(folder / "traces.jsonl", "id", ids)
            set_aside_foreign(folder / "results.jsonl", "trace", ids)
        path = None if folder is None else folder / "results.jsonl"
        results = _read_results(path)

        def grade_into(trace: Trace, seconds: float | None) -> None:
            if trace.id not in results:  # else only its trace was damaged, and made again
                results[trace.id] = grade_trace(trace, plan.model.tokenizer, seconds)
                if path is not None:
                    append_record(path, asdict(results[trace.id]))
                on_result()

        traces = generate_into(
            folder,
            plan,
            requests,
            batch_size=batch_size,
            progress=progress,
            on_finished=lambda finished: grade_into(finished.trace, finished.seconds),
        )
        for trace in traces:  # killed between a trace and its result
            grade_into(trace, None)
    # A condition may have had another name when its traces were generated.
    named = [
        replace(results[trace.id], condition=request.condition.name)
        for trace, request in zip(traces, requests, strict=True)
    ]
    decided = {"max_new_tokens": max_new_tokens, "style": style, "stop": list(stop)}
    setting = _setting(plan) | decided
    return Evaluation(tuple(named), setting, {c.name: plan.describe(c) for c in conditions})


def _setting(plan: Plan) -> dict[str, Any]:
    """What produced an evaluation, as far as its plan decides it."""
    return {
        "model": plan.fingerprint,
        "engine": plan.engine.name,
        "dtype": plan.engine.dtype,
        "device": plan.engine.device,
        "versions": versions(),
        **({"hooks": plan.hooks.record} if plan.hooks.record else {}),
    }


def requests_of(
    problems: Sequence[Problem],
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    *,
    style: PromptStyle,
    max_new_tokens: int,
    stop: Sequence[str | int],
) -> list[Request]:
    """The requests of an evaluation, by problem, condition and seed; refuses what cannot be one."""
    require_names(conditions)
    require_distinct("seeds", seeds)
    _require_gradable(problems)
    return [
        Request(problem, condition, style, seed, max_new_tokens, tuple(stop))
        for problem in problems
        for condition in conditions
        for seed in seeds
    ]


def _require_gradable(problems: Sequence[Problem]) -> None:
    """Refuses, before anything is generated, what could not be graded afterwards."""
    require_distinct("problems", [(problem.source, problem.id) for problem in problems])
    for problem in problems:
        if problem.tests is None and not problem.answer.strip():
            needed = "neither a gold answer nor tests to grade by"
            raise ValueError(f"problem {problem.id} has {needed}; leave it out")
    if any(problem.tests is not None for problem in problems):
        isolation()  # raises if programs cannot run here


def require_names(conditions: Sequence[Condition]) -> None:
    names = [condition.name for condition in conditions]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"conditions {names}: expected at least one, each with a name of its own")


def _read_results(path: Path | None) -> dict[str, Result]:
    rows = [] if path is None else continue_records(path)
    return {row["trace"]: Result(**row) for row in rows}
