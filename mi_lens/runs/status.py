"""mi-lens status: what a run is, how far it is, and whether a process still writes there."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_lens.common.parquet import read_table
from mi_lens.common.progress import duration
from mi_lens.common.records import count_records, read_record, read_records, require_count
from mi_lens.common.tensor_file import read_about
from mi_lens.common.writing import is_written
from mi_lens.evaluation.condition_sets import names_in
from mi_lens.evaluation.evaluate import LAST_WRITTEN as LAST_OF_EVALUATE
from mi_lens.runs.analysis import LAST_WRITTEN as LAST_OF_ANALYZE
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig, GenerateConfig
from mi_lens.runs.folder import config_of
from mi_lens.runs.generate import LAST_WRITTEN as LAST_OF_GENERATE
from mi_lens.runs.sweep_folder import SweepProgress, require_counts, sweep_progress
from mi_lens.runs.train_lens import COMMAND as TRAIN_LENS
from mi_lens.runs.train_lens import DIVERGENCES, LENS, TRAINING
from mi_lens.runs.train_lens import LAST_WRITTEN as LAST_OF_TRAIN_LENS

CONFIGS = {"generate": GenerateConfig, "analyze": AnalyzeConfig, "evaluate": EvaluateConfig}
WRITTEN = {
    True: "a process writes to it now",
    False: "no process on this machine writes to it",
    None: "whether a process writes to it cannot be known here",
}


@dataclass(frozen=True)
class RunProgress:
    """How far a run of mi-lens generate, import, analyze or evaluate is.

    Attributes:
        command: The command.
        model: The model's name.
        problems: Where the problems come from.
        traces: Number of finished traces.
        asked: Number of traces that the run will have.
        counts: What else there is so far, by name: graded traces, states, measurements.
        finished: Whether the run is finished.
    """

    command: str
    model: str
    problems: str
    traces: int
    asked: int
    counts: dict[str, int]
    finished: bool

    def __str__(self) -> str:
        counts = "".join(f", {count:,} {name}" for name, count in self.counts.items())
        return (
            f"mi-lens {self.command}: {self.model} on {self.problems}\n"
            f"{self.traces:,} of {self.asked:,} traces{counts}\n"
            f"finished: {'yes' if self.finished else 'no'}"
        )


@dataclass(frozen=True)
class LensProgress:
    """How far a run of mi-lens train-lens is.

    Attributes:
        model: The model's name.
        traces: The file or folder of the traces.
        updates: Number of updates that are on disk.
        asked: Number of updates that the run will have.
        compared: Number of traces held out on which both lenses were read.
        finished: Whether the run is finished.
    """

    model: str
    traces: str
    updates: int
    asked: int
    compared: int
    finished: bool

    def __str__(self) -> str:
        return (
            f"mi-lens {TRAIN_LENS}: {self.model} on {self.traces}\n"
            f"{self.updates:,} of {self.asked:,} updates saved, {self.compared:,} traces compared\n"
            f"finished: {'yes' if self.finished else 'no'}"
        )


@dataclass(frozen=True)
class Status:
    """The state of a folder that a command of mi-lens writes.

    Attributes:
        progress: What is done.
        written: Whether a process writes there (`is_written`).
        last_write: When a file there was last written, in seconds since 1970.
    """

    progress: RunProgress | SweepProgress | LensProgress
    written: bool | None
    last_write: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.last_write))
        ago = duration(max(0.0, time.time() - self.last_write))
        return f"{self.progress}\n{WRITTEN[self.written]}; last write {when}, {ago} ago"


def status(folder: str | Path) -> Status:
    """The state of the run or the sweep in a folder; nothing in it is changed.

    Raises:
        FileNotFoundError: If the folder holds no run of mi-lens and no sweep.
        ValueError: If its record is of another version of mi-lens.
    """
    folder = Path(folder)
    record = folder / "sweep.json"
    if record.exists():
        progress = sweep_progress(folder)
        require_counts(folder)
    else:
        progress = _run_progress(folder)
        record = folder / "run.json"
    return Status(progress, is_written(record), _last_write(folder))


def _run_progress(folder: Path) -> RunProgress | LensProgress:
    record = read_record(folder)
    command = record.get("command")
    if command == "import":
        return _import_progress(folder, record)
    if command == TRAIN_LENS:
        return _lens_progress(folder, record)
    if command not in CONFIGS:
        raise ValueError(
            f"{folder}: a run of {command!r}; expected one of "
            f"{sorted([*CONFIGS, 'import', TRAIN_LENS])}"
        )
    config = config_of(record, CONFIGS[command], folder)
    traces, asked = count_records(folder / "traces.jsonl"), record["problems"]["count"]
    finished = (folder / LAST_OF_GENERATE).exists()
    counts: dict[str, int] = {}
    if isinstance(config, EvaluateConfig):
        asked *= len(set(names_in(folder, config.conditions))) * len(config.seeds)
        counts["graded"] = count_records(folder / "results.jsonl")
        finished = (folder / LAST_OF_EVALUATE).exists()
    if isinstance(config, AnalyzeConfig):
        readings = read_records(folder / "readings.jsonl")
        if config.keep_states:
            counts["with states"] = sum(1 for _ in (folder / "activations").glob("*.safetensors"))
        counts["measured"] = len(readings)
        counts["measurements"] = sum(len(row["readings"]) for row in readings)
        if config.belief is not None:
            counts["asked"] = count_records(folder / "belief.jsonl")
        finished = (folder / LAST_OF_ANALYZE).exists()
    if finished:
        _require_counts(folder)
    problems = f"{config.problems} ({config.split})"
    return RunProgress(command, config.model, problems, traces, asked, counts, finished)


def _import_progress(folder: Path, record: dict[str, Any]) -> RunProgress:
    traces, asked = count_records(folder / "traces.jsonl"), record["problems"]["count"]
    finished = (folder / LAST_OF_GENERATE).exists()
    if finished:
        _require_counts(folder)
    config = record["config"]
    return RunProgress("import", config["model"], config["file"], traces, asked, {}, finished)


def _lens_progress(folder: Path, record: dict[str, Any]) -> LensProgress:
    config = record["config"]
    done = 0
    if (folder / LENS).exists():
        done = config["updates"]
    elif (folder / TRAINING).exists():
        done = read_about(folder / TRAINING)["updates"]
    return LensProgress(
        model=config["model"],
        traces=config["traces"],
        updates=done,
        asked=config["updates"],
        compared=count_records(folder / DIVERGENCES),
        finished=(folder / LAST_OF_TRAIN_LENS).exists(),
    )


def _require_counts(folder: Path) -> None:
    """Raises a DamagedError if a file of a finished run has lost lines; reads none of them."""
    if (folder / LAST_OF_GENERATE).exists():
        traces = read_record(folder, LAST_OF_GENERATE)["traces"]
    elif (folder / LAST_OF_EVALUATE).exists():
        traces = [row["trace"] for row in read_table(folder / "results.parquet")]
        require_count(folder / "results.jsonl", len(set(traces)))
    else:
        peaks = read_record(folder, "peaks.json")
        traces = peaks["traces"]
        measured = set(traces) - set(peaks["too_short"])
        require_count(folder / "readings.jsonl", len(measured))
        if read_record(folder)["config"].get("belief") is not None:
            require_count(folder / "belief.jsonl", len(set(traces)))
    require_count(folder / "traces.jsonl", len(set(traces)))


def _last_write(folder: Path) -> float:
    return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")] if path.exists())
