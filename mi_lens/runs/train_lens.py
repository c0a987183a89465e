"""mi-lens train-lens: trains a tuned lens, and says how far it is from the model's last word."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mi_lens.common.html import table
from mi_lens.common.progress import tracked
from mi_lens.common.provenance import content_hash, versions
from mi_lens.common.records import (
    DamagedError,
    append_record,
    continue_records,
    read_record,
    set_aside,
    set_aside_foreign,
    write_record,
)
from mi_lens.common.statistics import Estimate
from mi_lens.common.writing import only_writer, writing
from mi_lens.information.lenses.divergence import LensDivergence, lens_divergences, summarized
from mi_lens.information.lenses.training import train_lens
from mi_lens.information.lenses.tuned_lens import TunedLens, lens_hook_names
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.model import Model
from mi_lens.runs.folder import IMMATERIAL, begin_run, problems_record, traces_so_far
from mi_lens.runs.lens_config import TrainLensConfig
from mi_lens.states.trace_batches import require_readable
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import load_traces

COMMAND = "train-lens"
LENS, TRAINING = "lens.safetensors", "training.safetensors"
DIVERGENCES = "divergences.jsonl"
LAST_WRITTEN = "lens.json"  # A run is finished once its folder has this file.


@dataclass(frozen=True)
class LensReport:
    """A trained lens, and how far both lenses are from the final distribution.

    Attributes:
        lens: The lens.
        divergences: By hook name, over the problems that were held out.
        held_out: Ids of these problems.
    """

    lens: TunedLens
    divergences: dict[str, LensDivergence]
    held_out: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"KL(final || lens) in bits, on {len(self.held_out)} problems held out "
            "(95 % interval over problems):"
        ]
        for name, found in self.divergences.items():
            lines.append(
                f"{name}: logit lens {found.logit.in_form('.3f')}, tuned lens "
                f"{found.tuned.in_form('.3f')}, less by {found.gain.in_form('.3f')}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            (name, found.logit.text, found.tuned.text, found.gain.text)
            for name, found in self.divergences.items()
        ]
        header = ("hook name", "logit lens, bits", "tuned lens, bits", "difference")
        return table(rows, header, f"KL(final || lens), {len(self.held_out)} problems held out")

    @classmethod
    def load(cls, folder: str | Path) -> "LensReport":
        """Reads back what a finished `mi-lens train-lens` wrote; no model is loaded.

        Raises:
            FileNotFoundError: If the folder holds no finished run of it.
            DamagedError: If a file was altered.
        """
        folder = Path(folder)
        record = read_record(folder, LAST_WRITTEN)
        divergences = {
            name: LensDivergence(**{kind: Estimate(**value) for kind, value in found.items()})
            for name, found in record["divergences"].items()
        }
        return cls(TunedLens.load(folder / LENS), divergences, tuple(record["held_out"]))


def run_train_lens(config: TrainLensConfig) -> LensReport:
    """Trains a lens into `config.out`; a run that was killed continues where it stopped.

    Writes run.json, training.safetensors while it trains, lens.safetensors, divergences.jsonl (one
    line per trace that was held out) and lens.json, which says how far both lenses are from the
    final distribution.

    Raises:
        FileNotFoundError: If there are no traces there.
        ValueError: If a trace has no problem or does not fit the model, or there are fewer than two
            problems.
        FileExistsError: If the folder holds anything other than this run.
    """
    traces = _read_traces(config.traces)
    train, held_out = split_by_problem(traces, config.held_out, config.seed)
    model = config.load_model()
    require_readable(model, traces, lens_hook_names(model, config.hook_names))
    fingerprint = model_fingerprint(model)
    folder = begin_run(config.out, _record(config, fingerprint, traces))
    with only_writer(folder), writing(folder / "run.json"):
        lens = _trained(folder, config, model, fingerprint, train)
        divergences = _measured(folder, model, lens, held_out)
        keys = [trace.require_problem("that was held out").key for trace in held_out]
        problems = dict.fromkeys(t.require_problem("that was held out").id for t in held_out)
        report = LensReport(lens, summarized(divergences, keys), tuple(problems))
        record = {
            "divergences": {name: asdict(found) for name, found in report.divergences.items()},
            "held_out": list(report.held_out),
            "traces": [trace.id for trace in held_out],
        }
        write_record(folder / LAST_WRITTEN, record)
        (folder / TRAINING).unlink(missing_ok=True)
    return report


def _read_traces(path: Path) -> list[Trace]:
    """The traces of a file or of a run's folder.

    Raises:
        FileNotFoundError: If there are none.
    """
    if path.is_file():
        return list(load_traces(path))
    if not (path / "traces.jsonl").is_file():
        raise FileNotFoundError(
            f"{path}: holds no traces (no traces.jsonl); give a folder that mi-lens generate, "
            "analyze, evaluate or import wrote, or a file of traces"
        )
    return traces_so_far(path / "traces.jsonl")


def split_by_problem(
    traces: Sequence[Trace], held_out: float, seed: int
) -> tuple[list[Trace], list[Trace]]:
    """The traces to train on, and those of the problems that are held out.

    All traces of a problem are on the same side, and each side has at least one problem.

    Args:
        traces: The traces.
        held_out: Share of the problems that are held out.
        seed: Seed of the draw.

    Raises:
        ValueError: If a trace has no problem, or there are fewer than two problems.
    """
    keys = [trace.require_problem("by which traces are held out").key for trace in traces]
    problems = sorted(set(keys))
    if len(problems) < 2:
        raise ValueError(
            f"{len(traces)} traces of {len(problems)} problems: a lens is judged on other problems "
            "than it is trained on; expected traces of two problems or more"
        )
    count = min(len(problems) - 1, max(1, round(held_out * len(problems))))
    drawn = np.random.default_rng([seed, 2]).permutation(len(problems))[:count]
    aside = {problems[i] for i in drawn}
    sides = (
        [trace for trace, key in zip(traces, keys, strict=True) if (key in aside) == out]
        for out in (False, True)
    )
    train, held = sides
    return train, held


def _record(config: TrainLensConfig, fingerprint: str, traces: Sequence[Trace]) -> dict[str, Any]:
    settings = {k: v for k, v in asdict(config).items() if k not in (*IMMATERIAL, "traces")}
    problems = [trace.require_problem("to train on") for trace in traces]
    run = {
        "command": COMMAND,
        "config": {"traces": config.traces.name, **settings},
        "model": fingerprint,
        "versions": versions(),
        "problems": problems_record(list(dict.fromkeys(problems))),
        "content": content_hash([[trace.id, trace.token_ids] for trace in traces]),
    }
    return json.loads(json.dumps(run))


def _trained(
    folder: Path, config: TrainLensConfig, model: Model, fingerprint: str, traces: Sequence[Trace]
) -> TunedLens:
    """The folder's lens: read if it is there, else trained and written."""
    path = folder / LENS
    if path.exists():
        try:
            return TunedLens.load(path)
        except DamagedError as error:
            set_aside(path, str(error))
    lens = train_lens(
        model,
        traces,
        config.training(),
        hook_names=config.hook_names,
        fingerprint=fingerprint,
        saved=folder / TRAINING,
        batch_size=config.batch_size,
        progress=True,
    )
    lens.save(path)
    return lens


def _measured(
    folder: Path, model: Model, lens: TunedLens, traces: Sequence[Trace]
) -> list[dict[str, tuple[float, float]]]:
    """The divergences of every trace that was held out; each is written before the next begins."""
    path = folder / DIVERGENCES
    set_aside_foreign(path, "trace", [trace.id for trace in traces])
    done = {
        row["trace"]: {name: (logit, tuned) for name, (logit, tuned) in row["divergences"].items()}
        for row in continue_records(path)
    }
    for trace in tracked(traces, "compare the lenses", "trace"):
        if trace.id not in done:
            done[trace.id] = lens_divergences(model, lens, trace)
            append_record(path, {"trace": trace.id, "divergences": done[trace.id]})
    return [done[trace.id] for trace in traces]
