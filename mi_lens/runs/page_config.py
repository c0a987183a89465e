"""Configurations of the commands whose result is a page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mi_lens.common.checked_types import require_at_least, require_types


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one self-contained HTML page of finished or unfinished runs.

    Attributes:
        runs: Folders that generate, analyze, evaluate or sweep wrote; analyses are compared side
            by side.
        out: The HTML file to write.
        traces: Number of traces per run on the page; the first ones are taken.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("report.html")
    traces: int = 20


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two groups of traces: words, thoughts, accuracy. No model is loaded.

    Attributes:
        first: A file of traces (JSON lines or Parquet), or a folder that generate, import, analyze,
            evaluate or sweep wrote.
        second: The other one. Traces of the same problem are compared with each other.
        out: The HTML file to write.
        unit: What the length of a trace is counted in; None takes tokens if all traces have token
            ids, and text pieces if none has.
    """

    first: Annotated[Path, tyro.conf.Positional]
    second: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("compare.html")
    unit: Literal["tokens", "text pieces"] | None = None

    def __post_init__(self):
        require_types(self)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Analyze a model at every block, try one intervention, and write one report.

    Attributes:
        out: Folder to write to: a new or empty one, or one that the same command began.
        model: "pocket" for both pocket models on the same pocket problems; or any other model,
            such as smollm2, alone on the word problems "grade-school".
        limit: Number of problems; of grade-school there are 20.
        seed: Seed of the problems and of bootstrap intervals.
    """

    out: Path = Path("demo")
    model: str = "pocket"
    limit: int = 100
    seed: int = 0

    def __post_init__(self):
        require_types(self)
        require_at_least(self, limit=1, seed=0)
