"""Two groups of traces, read from files or folders and told apart by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mi_lens.evaluation.result import CAPPED
from mi_lens.evaluation.two_groups import problem_key
from mi_lens.runs.folder import traces_so_far
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import load_traces

WANTED = (
    "give a file of traces (JSON lines or Parquet), or a folder that mi-lens generate, import, "
    "analyze, evaluate or sweep wrote"
)


@dataclass(frozen=True)
class Group:
    """A group of traces.

    Attributes:
        name: The name of its file or folder, and as much of the path as tells the two groups apart.
        traces: Its traces.
    """

    name: str
    traces: tuple[Trace, ...]

    @property
    def problems(self) -> int:
        """Number of problems."""
        return len(set(map(problem_key, self.traces)))

    @property
    def models(self) -> list[str]:
        """Names of the models, in alphabetical order."""
        return sorted({trace.model for trace in self.traces})

    @property
    def cut_off(self) -> int:
        """Number of traces that are known to have been cut off."""
        return sum(trace.stop_reason in CAPPED for trace in self.traces)


def read_groups(first: str | Path, second: str | Path) -> tuple[Group, Group]:
    """Reads two groups of traces.

    Raises:
        FileNotFoundError: If there is no such file or folder, or a folder holds no traces.
        ValueError: If a file is empty or holds something else, or both hold the same traces.
    """
    paths = Path(first), Path(second)
    files = [_files(path) for path in paths]
    if {*map(Path.resolve, files[0])} & {*map(Path.resolve, files[1])}:
        raise ValueError(f"{first} and {second} are the same traces; give two groups to compare")
    traces = [_traces(path, of_path) for path, of_path in zip(paths, files, strict=True)]
    if len({frozenset(trace.id for trace in group) for group in traces}) == 1:
        raise ValueError(
            f"{first} and {second} hold the same {len(traces[0])} traces; give two groups to "
            "compare"
        )
    a, b = _names(*paths)
    return Group(a, tuple(traces[0])), Group(b, tuple(traces[1]))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; {WANTED}")
    files = [path / "traces.jsonl", *sorted(path.glob("units/*/traces.jsonl"))]
    if not (found := [file for file in files if file.is_file()]):
        inside = ", ".join(sorted(str(file.parent) for file in path.glob("*/traces.jsonl")))
        advice = f"give one of the folders inside it: {inside}" if inside else WANTED
        raise FileNotFoundError(f"{path}: holds no traces (no traces.jsonl); {advice}")
    return found


def _traces(path: Path, files: Sequence[Path]) -> list[Trace]:
    read = load_traces if path.is_file() else traces_so_far
    traces = [trace for file in files for trace in read(file)]
    if not traces:
        raise ValueError(f"{path}: no traces in it; expected at least one")
    return traces


def _names(*paths: Path) -> list[str]:
    """The shortest ends of two paths that differ; a run's traces.jsonl goes by its folder."""
    parts = [
        (path.parent if path.name == "traces.jsonl" else path).resolve().parts for path in paths
    ]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of_path[-count:]) for of_path in parts]
        if names[0] != names[1]:
            return names
    return ["A", "B"]
