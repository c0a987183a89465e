"""The studies on SmolLM2-135M-Instruct and the page of their figures.

python -m experiments.smollm2

It is a 135M instruct model, not a reasoner. It writes traces of its own on 20 word problems, and it
reads, token by token, traces that R1-Distill-Llama-8B wrote. Those are not part of this repository;
without them (`--data`) the studies that read are skipped.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import tyro
from tqdm import tqdm

from experiments.gallery import entry
from experiments.mi_study import saved_analysis
from experiments.specificity import Config as MeasuredStudy
from experiments.study import Study, command
from mi_lens.common.files import write_json, write_text

MEASURED = (
    "mi_trajectories",
    "layer_map",
    "answer_endings",
    "words_by_ending",
    "specificity",
    "scale_of_mi",
    "massive_coordinates",
)
OWN = (*MEASURED, "tokens_at_peaks", "layer_sweep")
READING = (*MEASURED, "separability_by_layer")
TEXTS = "aime25_DeepSeek-R1-Distill-Llama-8B.jsonl"  # With gold answers.
THOUGHTS = "cvenhoff_deepseek-r1-distill-llama-8b.jsonl"  # More of them, without gold answers.
OPENING_THOUGHTS = ("Wait", "Alternatively", "Hmm", "But", "Maybe")  # R1's, in these texts.

HEAD = """# Figures: SmolLM2-135M-Instruct

**A 135M instruct model, not a reasoner: nothing here is a finding about reasoning models.** These \
figures show what the measures and the interventions do on a pretrained model. So no claim of the \
papers is tested, whatever the numbers are: one premise, that the model is a reasoner, always \
fails, and effects are given beside it. `python -m experiments.smollm2` draws them anew \
([what we found](../../docs/smollm2.md)).

In the first part the model writes, on the word problems `grade-school`. In the second it reads: \
the texts are R1-Distill-Llama-8B's, and the states are those of SmolLM2 at each of their tokens \
(teacher-forced). Peaks there are peaks of a small reader and not of their author. The problems \
were kept by whether the model gets them right without any intervention, until half were; so an \
intervention that only changes the text can be expected to lose answers. Seconds are of one \
processor core, which other work kept busy too.
"""
PARTS = {"": ("Traces that it writes", OWN), "reading/": ("Traces of R1 that it reads", READING)}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to run.

    Attributes:
        studies: Names of the studies; none means all of them.
        model: The model. Another than smollm2 is for tests of this module.
        problems: The problems that it writes on.
        limit: Number of problems.
        max_new_tokens: Largest number of tokens of a trace.
        data: Folder of the texts.
        texts: Number of texts with a gold answer that are read.
        steps: Number of tokens that are read of each.
        runs: Folder of traces and states; a study reuses what lies there.
        out: Folder that gets the figures and their page.
    """

    studies: tuple[str, ...] = ()
    model: str = "smollm2"
    problems: str = "grade-school"
    limit: int = 20
    max_new_tokens: int = 256
    data: Path = Path("../shared/data/traces")
    texts: int = 10
    steps: int = 600
    runs: Path = Path("runs/smollm2")
    out: Path = Path("figures/smollm2")

    def study(self, name: str, folder: str) -> Study:
        """The settings of a study, of own traces (folder "") or of texts that are read."""
        settings: dict[str, Any] = {
            "model": self.model,
            "problems": self.problems,
            "limit": self.limit,
            "max_new_tokens": self.max_new_tokens,
            "runs": self.runs,
            "out": self.out / folder,
        }
        if name == "layer_sweep":
            settings |= {"texts": self.data / THOUGHTS, "text_limit": 30, "steps": 600, "every": 5}
        elif name == "separability_by_layer":
            settings |= {"texts": self.data / THOUGHTS, "steps": 600, "limit": 30}
            settings |= {"words": OPENING_THOUGHTS, "shuffles": 2}
        elif folder:
            settings |= {"texts": self.data / TEXTS, "steps": self.steps, "limit": self.texts}
        return import_module(f"experiments.{name}").Config(**settings)


def main(config: Config) -> None:
    """Runs the studies and writes their page."""
    if unknown := sorted(set(config.studies) - {*OWN, *READING}):
        expected = ", ".join(dict.fromkeys((*OWN, *READING)))
        raise SystemExit(f"unknown studies {unknown}; expected some of {expected}")
    there = all((config.data / name).is_file() for name in (TEXTS, THOUGHTS))
    if not there:
        print(f"{config.data}: no {TEXTS} and {THOUGHTS} there, so studies that read are skipped")
    wanted = [
        (name, folder)
        for folder, (_, names) in PARTS.items()
        for name in names
        if name in (config.studies or names) and (there or not (folder or name == "layer_sweep"))
    ]
    with tqdm(wanted, unit="study") as bar:
        for name, folder in bar:
            bar.set_description(folder + name)
            _run(config, name, folder)
    print(write_page(config.out))


def _run(config: Config, name: str, folder: str) -> None:
    """Runs a study, and adds to its record what it took."""
    study = config.study(name, folder)
    took = {}
    if name in (*MEASURED, "tokens_at_peaks"):
        shared = config.study("specificity", folder)
        assert isinstance(shared, MeasuredStudy)
        key = f"analysis for {command(shared)}"
        took["analysis that studies share"] = _timed(config, key, lambda: saved_analysis(shared))
    module = import_module(f"experiments.{name}")
    took["study"] = _timed(config, command(study), lambda: module.main(study))
    path = study.out / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**record, "seconds": took})


def _timed(config: Config, key: str, run: Callable[[], object]) -> dict[str, float]:
    """What a run takes, in seconds; if its results lay in `config.runs`, what it took to get them.

    Every run of the same command finds them, so the first one is recorded.
    """
    path = config.runs / "seconds.json"
    began, used = perf_counter(), process_time()
    run()
    took = {"processor": round(process_time() - used, 1), "clock": round(perf_counter() - began, 1)}
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known.setdefault(key, took)
    write_json(path, known)
    return known[key]


def write_page(folder: Path) -> Path:
    """Writes README.md for the studies that have a figure in a folder."""
    parts = [HEAD]
    for where, (title, names) in PARTS.items():
        paths = {name: folder / where / f"{name}.json" for name in names}
        records = {
            name: json.loads(path.read_text(encoding="utf-8"))
            for name, path in paths.items()
            if path.exists()
        }
        parts += [f"## {title}\n"] if records else []
        parts += [f"{entry(name, r, where)}\n{_seconds(r)}" for name, r in records.items()]
    path = folder / "README.md"
    write_text(path, "\n".join(parts))
    return path


def _seconds(record: dict[str, Any]) -> str:
    told = [f"{name} {row['processor']:.0f} s" for name, row in record["seconds"].items()]
    return f"Time: {', '.join(told)}.\n"


if __name__ == "__main__":
    main(tyro.cli(Config))
