"""Reads the run folders of every command back, without loading a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mi_lens.common.provenance import content_hash
from mi_lens.common.records import read_record, read_records, require_all
from mi_lens.evaluation.along_trace import Effect
from mi_lens.evaluation.condition_sets import names_in
from mi_lens.evaluation.evaluate import LAST_WRITTEN, Evaluation
from mi_lens.problems.grading.grader import grade
from mi_lens.runs import sweep
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig, GenerateConfig
from mi_lens.runs.effects_of_run import effects_of_run
from mi_lens.runs.folder import config_of, traces_so_far
from mi_lens.runs.generate import LAST_WRITTEN as LAST_OF_GENERATE
from mi_lens.runs.sweep_folder import DONE, read_spec, require_whole, sweep_progress
from mi_lens.runs.sweep_spec import Point
from mi_lens.traces.trace import Trace

Kind = Literal["analyze", "generate", "evaluate", "sweep"]
CONFIGS = {"analyze": AnalyzeConfig, "generate": GenerateConfig, "evaluate": EvaluateConfig}
AGAIN = "Repeat the same command to continue."
COMPARED = "The comparison covers the problems that every condition has answered."


@dataclass(frozen=True)
class Verdict:
    """The grade of a trace: the answer found in it, and whether that answer is right."""

    answer: str | None
    correct: bool


@dataclass(frozen=True)
class Run:
    """The traces of one model in a run folder, and the results computed from them.

    Attributes:
        name: The model's name. The command follows where there is an analysis of the same model;
            the folder's name follows where this does not tell runs apart.
        kind: The command that wrote the folder.
        folder: The run folder.
        model: The checkpoint, as the command named it.
        tokenizer: The model's tokenizer.
        traces: The traces, in the order of the page.
        verdicts: Trace id to verdict; an ungraded trace has none.
        unfinished: A sentence about what is missing; None for a finished run.
        settings: The settings that the command was given.
        versions: The versions of the packages that made the run.
        analysis: The result of `analyze`.
        evaluation: The result of `evaluate` or of a sweep, over the problems that every condition
            has answered; None as long as there is no such problem.
        points: The conditions of a sweep and their places on its grid.
        effects: Trace id to the effects of its tokens and thoughts, if they were added to the run.
    """

    name: str
    kind: Kind
    folder: Path
    model: str
    tokenizer: Any
    traces: tuple[Trace, ...]
    verdicts: dict[str, Verdict]
    unfinished: str | None
    settings: dict[str, Any]
    versions: dict[str, str]
    analysis: Analysis | None = None
    evaluation: Evaluation | None = None
    points: tuple[Point, ...] = ()
    effects: dict[str, tuple[Effect, ...]] = field(default_factory=dict)


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Reads folders that `generate`, `analyze`, `evaluate` or `sweep` wrote.

    Returns:
        One run per folder, or per model of a sweep; no two have the same name.

    Raises:
        FileNotFoundError: If a folder holds no such run, or a tokenizer no longer exists.
        ValueError: If there are no folders, or another version of mi_lens wrote a run.
    """
    if not folders:
        raise ValueError("no folders to report on; give at least one that mi-lens wrote")
    runs = [run for folder in folders for run in _read(Path(folder))]
    analysed = [run.name for run in runs if run.kind == "analyze"]
    runs = [
        replace(run, name=f"{run.name} ({run.kind})")
        if run.kind != "analyze" and run.name in analysed
        else run
        for run in runs
    ]
    names = [run.name for run in runs]
    runs = [
        replace(run, name=f"{run.name} ({run.folder.name})") if names.count(run.name) > 1 else run
        for run in runs
    ]
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} {names[:i].count(run.name) + 1}")
        if names.count(run.name) > 1
        else run
        for i, run in enumerate(runs)
    ]


def _read(folder: Path) -> Iterator[Run]:
    if (folder / "sweep.json").is_file():
        yield from _sweep(folder)
        return
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}: {_why_not(folder)}")
    record = read_record(folder)
    command = record.get("command")
    if command not in CONFIGS:
        raise ValueError(
            f"{folder}: its run.json names the command {command!r}; expected one of "
            f"{[*CONFIGS, 'sweep']}"
        )
    yield {"analyze": _analysis, "generate": _generation, "evaluate": _evaluation}[command](
        folder, record
    )


def _why_not(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder; give one that mi-lens generate, analyze, evaluate or sweep wrote"
    inside = sorted(
        str(path.parent) for name in ("run.json", "sweep.json") for path in folder.glob(f"*/{name}")
    )
    advice = f"give the run folders inside it: {', '.join(inside)}" if inside else "give its --out"
    return (
        "holds no run of mi-lens generate, analyze, evaluate or sweep (no run.json, no "
        f"sweep.json); {advice}"
    )


def _analysis(folder: Path, record: dict[str, Any]) -> Run:
    analysis = Analysis.load(folder)
    unfinished = None
    if not analysis.finished:
        expected = record["problems"]["count"]
        unfinished = (
            f"{_count(len(analysis.traces), expected)}, "
            f"{len(analysis.measurements)} of them measured; words at peaks come last. {AGAIN}"
        )
    graded = zip(analysis.traces, analysis.grades, strict=True)
    verdicts = {t.id: Verdict(g.extracted, g.correct) for t, g in graded if g is not None}
    return _run(
        folder,
        record,
        "analyze",
        analysis.config.load_tokenizer(analysis.config.model),
        analysis.traces,
        verdicts,
        unfinished,
        analysis=analysis,
    )


def _generation(folder: Path, record: dict[str, Any]) -> Run:
    config = config_of(record, GenerateConfig, folder)
    traces = tuple(traces_so_far(folder / "traces.jsonl"))
    expected = record["problems"]["count"]
    unfinished = None
    if (folder / LAST_OF_GENERATE).exists():
        wanted = read_record(folder, LAST_OF_GENERATE)["traces"]
        require_all(folder / "traces.jsonl", {trace.id for trace in traces}, wanted)
    else:
        unfinished = f"{_count(len(traces), expected)}. {AGAIN}"
    verdicts = {}
    for trace in traces:
        # A page never runs a program that a model wrote.
        if trace.problem is not None and trace.problem.tests is None:
            graded = grade(trace.text, trace.problem)
            verdicts[trace.id] = Verdict(graded.extracted, graded.correct)
    tokenizer = config.load_tokenizer(config.model)
    return _run(folder, record, "generate", tokenizer, traces, verdicts, unfinished)


def _evaluation(folder: Path, record: dict[str, Any]) -> Run:
    config = config_of(record, EvaluateConfig, folder)
    names = names_in(folder, config.conditions)
    finished = (folder / LAST_WRITTEN).exists()
    evaluation = Evaluation.load(folder)
    traces = traces_so_far(folder / "traces.jsonl")
    rows = read_records(folder / "results.jsonl")
    unfinished = None
    if finished:
        wanted = [result.trace for result in evaluation.results]
        require_all(folder / "traces.jsonl", {trace.id for trace in traces}, wanted)
        require_all(folder / "results.jsonl", {row["trace"] for row in rows}, wanted)
    else:
        expected = record["problems"]["count"] * len(names) * len(config.seeds)
        unfinished = f"{_count(len(traces), expected)}. {COMPARED} {AGAIN}"
    return _run(
        folder,
        record,
        "evaluate",
        config.load_tokenizer(config.model),
        _by_problem(traces, names),
        _verdicts(rows),
        unfinished,
        evaluation=evaluation if evaluation.results else None,
    )


def _sweep(folder: Path) -> Iterator[Run]:
    record = read_record(folder, "sweep.json")
    evaluations = sweep.results(folder)
    state, spec = sweep_progress(folder), read_spec(folder)
    unfinished = None
    if state.done < state.units:
        unfinished = f"{state.counts()}. {COMPARED} {AGAIN}"
    for model in record["spec"]["models"]:
        units = sorted((folder / "units").glob(f"{content_hash(model)[:8]}-*"))
        for unit in units:
            if (unit / DONE).exists():
                require_whole(unit)
        traces = [trace for unit in units for trace in traces_so_far(unit / "traces.jsonl")]
        rows = [row for unit in units for row in read_records(unit / "results.jsonl")]
        evaluation = evaluations.get(model)
        names = evaluation.names if evaluation else []
        yield _run(
            folder,
            {"config": {**record["spec"], "model": model}, "versions": record["versions"]},
            "sweep",
            spec.load_tokenizer(model),
            _by_problem(traces, names),
            _verdicts(rows),
            unfinished,
            evaluation=evaluation,
            points=tuple(spec.points()),
        )


def _run(
    folder: Path,
    record: dict[str, Any],
    kind: Kind,
    tokenizer: Any,
    traces: Sequence[Trace],
    verdicts: dict[str, Verdict],
    unfinished: str | None,
    **results: Any,
) -> Run:
    model = record["config"]["model"]
    return Run(
        name=Path(model).name if Path(model).is_dir() else model,
        kind=kind,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        traces=tuple(traces),
        verdicts=verdicts,
        unfinished=unfinished,
        settings=record["config"],
        versions=record["versions"],
        effects=effects_of_run(folder),
        **results,
    )


def _count(traces: int, expected: int) -> str:
    return f"{traces} of {expected} traces"


def _by_problem(traces: Sequence[Trace], conditions: Sequence[str]) -> list[Trace]:
    """Sorts traces by problem, then by condition, then by seed."""
    problems = {id_: i for i, id_ in enumerate(dict.fromkeys(map(_problem_id, traces)))}
    order = {name: i for i, name in enumerate(conditions)}

    def place(trace: Trace) -> tuple[int, int, int]:
        name = trace.condition.get("name", "")
        return problems[_problem_id(trace)], order.get(name, len(order)), trace.seed

    return sorted(traces, key=place)


def _problem_id(trace: Trace) -> str:
    return trace.problem.id if trace.problem is not None else trace.prompt


def _verdicts(rows: Sequence[dict[str, Any]]) -> dict[str, Verdict]:
    return {row["trace"]: Verdict(row["answer"], row["correct"]) for row in rows}
