"""mi-lens check: verifies every file of a run or a sweep, and changes none."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mi_lens.common.parquet import read_table
from mi_lens.common.records import (
    AGAIN,
    DamagedError,
    count_records,
    damaged_lines,
    read_record,
    require_checksum,
    require_records,
)
from mi_lens.common.tensor_file import read_tensors
from mi_lens.evaluation.evaluate import LAST_WRITTEN as LAST_OF_EVALUATE
from mi_lens.runs.analysis import LAST_WRITTEN as LAST_OF_ANALYZE
from mi_lens.runs.generate import LAST_WRITTEN as LAST_OF_GENERATE
from mi_lens.runs.sweep_folder import DONE, require_whole
from mi_lens.runs.train_lens import DIVERGENCES, LENS, TRAINING
from mi_lens.runs.train_lens import LAST_WRITTEN as LAST_OF_TRAIN_LENS
from mi_lens.states.shard import load_activations


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes:
        folder: The folder.
        records: Number of records: JSON files, and lines of JSON-lines files.
        shards: Number of files of states.
        damages: What was altered or is missing, each with its path and line.
    """

    folder: Path
    records: int
    shards: int
    damages: tuple[str, ...]

    def __str__(self) -> str:
        found = f"{self.records:,} records and {self.shards:,} files of states verified"
        if not self.damages:
            return f"{self.folder}: {found}; all are as they were written"
        return "\n".join([*self.damages, f"{self.folder}: {found}; damages: {len(self.damages)}"])


def check(folder: str | Path) -> Check:
    """Verifies the checksum of every record and state in a folder of a run or a sweep.

    It also looks for what a finished run or unit no longer has. Figures and pages have no
    checksums; nor has a last line that is still being written.

    Raises:
        FileNotFoundError: If the folder holds no run of mi-lens and no sweep.
    """
    folder = Path(folder)
    if not (folder / "sweep.json").is_file() and not (folder / "run.json").is_file():
        read_record(folder)  # says what is missing
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name[0] != "." and path.parent.name != "figures"
    ]
    damages = [damage for path in files for damage in _damages(path)]
    units = [path.parent for path in files if path.name == DONE]
    for finished in (folder, *units):
        try:
            _require_whole(finished)
        except ValueError as error:
            if str(error) not in damages:
                damages.append(str(error))
    return Check(
        folder=folder,
        records=sum(count_records(path) for path in files if path.suffix == ".jsonl")
        + sum(path.suffix == ".json" for path in files),
        shards=sum(path.suffix == ".safetensors" for path in files),
        damages=tuple(damages),
    )


def _damages(path: Path) -> Iterator[str]:
    """What is wrong with one file by itself."""
    if path.suffix == ".jsonl":
        yield from damaged_lines(path)
        return
    try:
        if path.suffix == ".json":
            read_record(path.parent, path.name)
        elif path.name in (LENS, TRAINING):
            read_tensors(path)
        elif path.suffix == ".safetensors":
            load_activations(path)
        elif path.suffix == ".parquet":
            read_table(path)
    except ValueError as error:
        yield str(error)


def _require_whole(folder: Path) -> None:
    """Raises a ValueError if a finished run or unit lacks a file or a row."""
    if (folder / DONE).is_file():
        require_whole(folder)
    if (folder / LAST_OF_GENERATE).is_file():
        wanted = read_record(folder, LAST_OF_GENERATE)["traces"]
        require_records(folder / "traces.jsonl", "id", wanted)
    if (folder / LAST_OF_EVALUATE).is_file():
        table = folder / "results.parquet"
        require_checksum(table, read_record(folder, LAST_OF_EVALUATE)["results"])
        wanted = [row["trace"] for row in read_table(table)]
        require_records(folder / "traces.jsonl", "id", wanted)
        require_records(folder / "results.jsonl", "trace", wanted)
    if (folder / LAST_OF_TRAIN_LENS).is_file():
        if not (folder / LENS).is_file():
            raise DamagedError(f"{folder / LENS}: missing from a finished run; {AGAIN}")
        held_out = read_record(folder, LAST_OF_TRAIN_LENS)["traces"]
        require_records(folder / DIVERGENCES, "trace", held_out)
    if (folder / LAST_OF_ANALYZE).is_file():
        peaks = read_record(folder, "peaks.json")
        require_records(folder / "traces.jsonl", "id", peaks["traces"])
        measured = [trace for trace in peaks["traces"] if trace not in peaks["too_short"]]
        require_records(folder / "readings.jsonl", "trace", measured)
        if read_record(folder)["config"].get("belief") is not None:
            require_records(folder / "belief.jsonl", "trace", peaks["traces"])
