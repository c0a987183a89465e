"""Measures MI between the states of traces and answers; writes each trace before the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.progress import tracked
from mi_lens.common.records import append_record, continue_records
from mi_lens.generation.request import Plan
from mi_lens.information.per_trace.measurement import (
    Measurement,
    measure,
    measurement_from_row,
    measurement_to_row,
)
from mi_lens.information.per_trace.peaks import MINIMUM_STEPS
from mi_lens.models.hook_names import last_block_output
from mi_lens.models.model import Model
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.states.answer_state import answer_state
from mi_lens.states.capture_to_disk import StateStore, shard_path
from mi_lens.states.shard import load_activations
from mi_lens.states.uncertainty import next_token_uncertainty
from mi_lens.traces.trace import Trace

Measurements = dict[str, Measurement]  # By hook name.


def activations_path(folder: Path, trace: Trace) -> Path:
    """The file in which a run keeps the states of a trace."""
    return shard_path(folder / "activations", trace)


def measure_into(
    folder: Path,
    config: AnalyzeConfig,
    plan: Plan,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    progress: bool = True,
) -> dict[str, Measurements]:
    """Measures traces; writes to a folder's activations/ and readings.jsonl, and keeps their rows.

    The last block's states are stored in addition to those of `hook_names`. The model's uncertainty
    about each token is computed from them, so a run that was killed between states and measurements
    does not run the model again.

    Returns:
        Trace id to measurements, for every trace that is long enough to have peaks.

    Raises:
        ValueError: If the states of a trace are not finite, or a file in activations/ has another
            origin; earlier traces are on disk.
        OSError: If the disk is full; earlier traces are on disk.
    """
    model = plan.model
    store = StateStore(model, folder / "activations", fingerprint=plan.fingerprint)
    path = folder / "readings.jsonl"
    done = {row["trace"]: measurements_from_row(row["readings"]) for row in continue_records(path)}
    long_enough = [trace for trace in traces if len(trace) >= MINIMUM_STEPS]
    last = last_block_output(model)
    names = list(dict.fromkeys([*hook_names, last]))
    waiting = [t for t in long_enough if t.id not in done or not set(names) <= set(store.held(t))]
    answers = _answers(config, model, traces, hook_names, progress) if waiting else {}
    for trace in tracked(waiting, "read and measure", "trace", progress):
        (shard,) = store.capture([trace], names)
        if trace.id in done:  # Only the states of the trace were missing.
            continue
        try:
            measurements = _measure(
                config, model, trace, shard, hook_names, last, answers[trace.id]
            )
        except ValueError as error:
            raise ValueError(f"trace {trace.id}: {error}") from error
        row = {name: measurement_to_row(measurement) for name, measurement in measurements.items()}
        append_record(path, {"trace": trace.id, "readings": row})
        done[trace.id] = measurements
    return {trace.id: done[trace.id] for trace in long_enough}


def _measure(
    config: AnalyzeConfig,
    model: Model,
    trace: Trace,
    shard: Path,
    hook_names: Sequence[str],
    last: str,
    answers: "_Answers",
) -> Measurements:
    """Measures the trace of a shard; loads the states of one hook name at a time."""
    uncertainty = next_token_uncertainty(model, trace, load_activations(shard, [last])[last])
    return {
        name: measure(
            load_activations(shard, [name])[name],
            answers.gold[name],
            answers.others[name],
            uncertainty,
            sigma=config.sigma,
            rule=config.peak_rule(),
            seed=config.seed,
        )
        for name in hook_names
    }


def measurements_from_row(row: dict[str, Any]) -> Measurements:
    """The measurements of a trace from its row of readings.jsonl."""
    return {name: measurement_from_row(measurement) for name, measurement in row.items()}


@dataclass(frozen=True)
class _Answers:
    """The answer states that a trace is compared with, by hook name."""

    gold: dict[str, Float[Tensor, " d"]]
    others: dict[str, Float[Tensor, "other d"]]


def _answers(
    config: AnalyzeConfig,
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    progress: bool,
) -> dict[str, _Answers]:
    """Trace id to the trace's gold answer state, and states of other problems' other answers."""
    problems = {trace.id: trace.problem for trace in traces if trace.problem is not None}
    different = list(dict.fromkeys(problems.values()))
    states = {
        problem: answer_state(
            model, problem, hook_names, site=config.site, template=config.template
        )
        for problem in tracked(different, "read answers of", "problem", progress)
    }
    answers = {}
    for trace_id, own in problems.items():
        candidates = [problem for problem in states if problem.answer != own.answer]
        sample = Random(f"{config.seed}/{own.id}").sample(
            candidates, min(len(candidates), config.mismatched)
        )
        answers[trace_id] = _Answers(
            gold=states[own],
            others={
                name: torch.stack([states[own][name], *(states[p][name] for p in sample)])[1:]
                for name in hook_names
            },
        )
    return answers
