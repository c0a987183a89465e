"""What studies of published texts share: where the texts are, and how they are read.

The texts are those of large models, which nobody ran here: no state is read. Their licences do not
let them be passed on, so they are read from a folder, and a study without it is skipped.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.study import Study
from mi_lens.common.records import file_checksum
from mi_lens.evaluation.two_groups import problem_key
from mi_lens.runs.config import ImportConfig
from mi_lens.runs.import_text import read_texts
from mi_lens.traces.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Texts(Study):
    """What to read.

    Attributes:
        model: No model is run.
        problems: The problems are those of the texts.
        data: Folder of the texts, one JSON-lines file per model.
    """

    model: str = "none"
    problems: str = "those of the texts"
    data: Path = Path("../shared/data/traces")

    def scope(self) -> str:
        """What the gallery says that was read."""
        return "texts of large models, whose states nobody read here"

    def missing(self) -> str:
        """Why the study cannot be run; "" if it can."""
        if self.data.is_dir() and any(self.data.glob("*.jsonl")):
            return ""
        return f"{self.data}: no folder of texts there, so this study is skipped; give --data"

    def read(self, name: str) -> tuple[list[Trace], str]:
        """The texts of a file on the first problems, and a checksum of the file.

        A reasoning model's text is its whole reply, think block included. Files of other models
        hold the prompt as well, so the reply alone is taken, which they call "thinking".
        """
        file = self.data / f"{name}.jsonl"
        with file.open(encoding="utf-8") as lines:
            reasons = json.loads(next(lines))["reasoning_model"]
        columns = () if reasons else ("response=thinking",)
        traces = read_texts(ImportConfig(file=file, out=self.runs, columns=columns))
        kept = list(dict.fromkeys(map(problem_key, traces)))[: self.limit]
        return [trace for trace in traces if problem_key(trace) in kept], file_checksum(file)

    def pairs(self) -> list[tuple[str, str]]:
        """Files of a reasoning model and of the model to compare it with, where both are there."""
        found = []
        for file in sorted(self.data.glob("*.jsonl")):
            with file.open(encoding="utf-8") as lines:
                row = json.loads(next(lines))
            source = file.stem.partition("_")[0]
            other = f"{source}_{row['pair']}"
            if row["reasoning_model"] and row["pair"] and (self.data / f"{other}.jsonl").is_file():
                found.append((file.stem, other))
        return found


def model_of(traces: Sequence[Trace]) -> str:
    """The name of the model that wrote the traces."""
    return traces[0].model
