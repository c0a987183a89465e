"""Measures MI between the states of traces and answers; writes each trace before the next."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.float64 import float64_device
from mi_lens.common.progress import tracked
from mi_lens.common.records import append_record, continue_records
from mi_lens.generation.plan import Plan
from mi_lens.information.per_trace.measurement import (
    Measurement,
    Trajectory,
    measure,
    measurement_from_row,
    measurement_to_row,
)
from mi_lens.information.per_trace.peaks import MINIMUM_STEPS
from mi_lens.models.hook_names import last_block_output
from mi_lens.models.model import Model
from mi_lens.problems.endings import Ending, endings_of
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.runs.measure_on_engine import measured_on_engine, other_problems
from mi_lens.states.answer_state import answer_state
from mi_lens.states.by_hook import states_by_hook
from mi_lens.states.capture_to_disk import StateStore, shard_path
from mi_lens.states.shard import load_activations
from mi_lens.states.uncertainty import next_token_explanations
from mi_lens.traces.trace import Trace

Measurements = dict[str, Measurement]  # By hook name.
# The states of a trace, hook name by hook name.
ByHook = Iterator[tuple[str, Float[Tensor, "step d"]]]


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

    The last block's states are read in addition to those of `hook_names`: the model's uncertainty
    about each token is computed from them. If the run keeps states, a run that was killed between
    states and measurements does not run the model again. If it does not, there is no activations/,
    and states are measured on the model's device (`states_by_hook`), or in an engine's workers if
    `config.read_with` is "engine".

    Returns:
        Trace id to measurements, for every trace that is long enough to have peaks.

    Raises:
        ValueError: If the states of a trace are not finite, or a file in activations/ has another
            origin; earlier traces are on disk.
        OSError: If the disk is full; earlier traces are on disk.
    """
    model = plan.model
    path = folder / "readings.jsonl"
    done = {row["trace"]: measurements_from_row(row["readings"]) for row in continue_records(path)}
    long_enough = [trace for trace in traces if len(trace) >= MINIMUM_STEPS]
    last = last_block_output(model)
    names = list(dict.fromkeys([last, *hook_names]))
    store = None
    if config.keep_states:
        store = StateStore(model, folder / "activations", fingerprint=plan.fingerprint)
    waiting = [
        trace
        for trace in long_enough
        if trace.id not in done or (store and not set(names) <= set(store.held(trace)))
    ]
    if config.read_with == "engine":
        measured = measured_on_engine(config, plan, traces, waiting, hook_names)
    else:
        read = _Answers.read(config, model, traces, names, progress) if waiting else None
        measured = _measured_on_model(config, model, waiting, hook_names, store, read, done)
    with closing(measured):
        for trace in tracked(waiting, "read and measure", "trace", progress):
            measurements = next(measured)
            if measurements is None:  # Only the states of the trace were missing.
                continue
            row = {name: measurement_to_row(found) for name, found in measurements.items()}
            append_record(path, {"trace": trace.id, "readings": row})
            done[trace.id] = measurements
    return {trace.id: done[trace.id] for trace in long_enough}


def _measured_on_model(
    config: AnalyzeConfig,
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    store: StateStore | None,
    answers: "_Answers | None",
    done: Mapping[str, Measurements],
) -> Generator[Measurements | None, None, None]:
    """For every trace what is measured of it, or None if that is done and its states were not."""
    last = last_block_output(model)
    names = list(dict.fromkeys([last, *hook_names]))
    for trace in traces:
        if store is None:
            by_hook = states_by_hook(model, trace, names)
        else:
            (shard,) = store.capture([trace], names)
            by_hook = _loaded(shard, names)
        if answers is None or trace.id in done:
            yield None
            continue
        try:
            found = _measure(config, model, trace, by_hook, hook_names, last, answers)
        except ValueError as error:
            raise ValueError(f"trace {trace.id}: {error}") from error
        yield found


def _loaded(shard: Path, names: Sequence[str]) -> ByHook:
    for name in names:
        yield name, load_activations(shard, [name])[name]


def _measure(
    config: AnalyzeConfig,
    model: Model,
    trace: Trace,
    by_hook: ByHook,
    hook_names: Sequence[str],
    last: str,
    answers: "_Answers",
) -> Measurements:
    """Measures a trace on the model's device; its states at the last block come first."""
    problem = trace.require_problem("whose answer its states are compared with")
    after_answer = answers.last_token(model, problem, last)
    endings = answers.endings(model, problem, hook_names)
    others = answers.other_problems(problem)
    device = float64_device(torch.device(model.cfg.device))
    next_token: dict[str, Trajectory] = {}
    measurements = {}
    for name, read in by_hook:
        states = read.to(device)
        if name == last:
            next_token = next_token_explanations(model, trace, states, after_answer)
        if name in hook_names:
            measurements[name] = measure(
                states,
                answers.states[problem][name].to(device),
                answers.stacked(others, name).to(device),
                next_token,
                endings={ending: of[name].to(device) for ending, of in endings.items()},
                sigma=config.sigma,
                rule=config.peak_rule(),
                seed=config.seed,
            )
        del read, states  # before those of the next hook name are there
    return {name: measurements[name] for name in hook_names}


def measurements_from_row(row: dict[str, Any]) -> Measurements:
    """The measurements of a trace from its row of readings.jsonl."""
    return {name: measurement_from_row(measurement) for name, measurement in row.items()}


@dataclass(frozen=True)
class _Answers:
    """The answer states that traces are compared with.

    Attributes:
        config: The settings of the run.
        states: For every problem, its answer state by hook name.
    """

    config: AnalyzeConfig
    states: dict[Problem, dict[str, Float[Tensor, " d"]]]

    @classmethod
    def read(
        cls,
        config: AnalyzeConfig,
        model: Model,
        traces: Sequence[Trace],
        names: Sequence[str],
        progress: bool,
    ) -> "_Answers":
        """Reads the answers of all problems that the traces are of."""
        problems = list(dict.fromkeys(t.problem for t in traces if t.problem is not None))
        tracked_problems = tracked(problems, "read answers of", "problem", progress)
        return cls(
            config,
            {
                problem: answer_state(
                    model,
                    problem,
                    names,
                    site=config.site,
                    template=config.template,
                    ending=config.ending,
                )
                for problem in tracked_problems
            },
        )

    def other_problems(self, problem: Problem) -> list[Problem]:
        """Other problems with other answers, drawn for this problem."""
        return other_problems(self.config, list(self.states), problem)

    def stacked(self, problems: Sequence[Problem], name: str) -> Float[Tensor, "problem d"]:
        """The answer states of problems at a hook name."""
        like = next(iter(self.states.values()))[name]
        return torch.stack([self.states[p][name] for p in problems] or [like])[: len(problems)]

    def last_token(self, model: Model, problem: Problem, name: str) -> Float[Tensor, " d"]:
        """The state at the last token of the answer's text, wherever the answer state is read."""
        if self.config.site != "answer_mean":
            return self.states[problem][name]
        config = self.config
        return answer_state(
            model,
            problem,
            name,
            site="answer_last",
            template=config.template,
            ending=config.ending,
        )[name]

    def endings(
        self, model: Model, problem: Problem, hook_names: Sequence[str]
    ) -> dict[Ending, dict[str, Float[Tensor, " d"]]]:
        """The problem's answer state under every ending, by hook name."""
        site, template = self.config.site, self.config.template
        return {
            ending: self.states[problem]
            if ending == self.config.ending
            else answer_state(
                model, problem, list(hook_names), site=site, template=template, ending=ending
            )
            for ending in endings_of(problem, site)
        }
