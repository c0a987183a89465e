"""The way of the data, once: problems, traces, states, trajectories, peaks, thinking tokens."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mi_lens.activations import States, answer_state, capture, load_activations, save_activations
from mi_lens.backends import resolve_hook_names
from mi_lens.config import AnalyzeConfig, GenerateConfig
from mi_lens.files import append_jsonl, drop_torn_line, read_jsonl, write_json
from mi_lens.fingerprint import model_fingerprint
from mi_lens.generation import Request, Sampling
from mi_lens.grading import is_correct
from mi_lens.information.hsic import mi_trajectories
from mi_lens.models import load
from mi_lens.peaks import MINIMUM_STEPS, PeakStatistics, find_peaks, peak_statistics
from mi_lens.problems import Problem, load_problems
from mi_lens.runs import generate_into, open_run
from mi_lens.tokens import ThinkingTokens, thinking_tokens
from mi_lens.traces import Trace

Trajectories = dict[str, list[float]]  # Hook name to one MI value a step.


@dataclass(frozen=True)
class Analysis:
    """What a run found.

    Attributes:
        config: What was asked.
        traces: One a problem, in order.
        token_strings: For every trace, its generated tokens as text.
        hook_names: What was read.
        trajectories: Trace id to its trajectories; a trace too short for peaks has none.
        tokens: Hook name to the table of words at its peaks.
    """

    config: AnalyzeConfig
    traces: tuple[Trace, ...]
    token_strings: tuple[list[str], ...]
    hook_names: tuple[str, ...]
    trajectories: dict[str, Trajectories]
    tokens: dict[str, ThinkingTokens]

    @cached_property
    def analysed(self) -> tuple[Trace, ...]:
        """The traces that have trajectories."""
        return tuple(trace for trace in self.traces if trace.id in self.trajectories)

    def mi(self, trace: Trace, hook_name: str) -> list[float]:
        """The trajectory of a trace at a hook name."""
        return self.trajectories[trace.id][hook_name]

    def peaks(self, trace: Trace, hook_name: str) -> list[int]:
        """The peaks of a trace at a hook name."""
        return find_peaks(self.mi(trace, hook_name), self.config.tau).tolist()

    def statistics(self, trace: Trace, hook_name: str) -> PeakStatistics:
        """The numbers of a trace's peaks at a hook name."""
        return peak_statistics(self.mi(trace, hook_name), self.peaks(trace, hook_name))

    def summary(self, hook_name: str) -> dict[str, Any]:
        """Means over traces, as in paper 1's tables 1 and 2; None where no trace defines one."""
        statistics = [self.statistics(trace, hook_name) for trace in self.analysed]

        def mean(field: str) -> float | None:
            values = [v for row in statistics if (v := getattr(row, field)) is not None]
            return float(np.mean(values)) if values else None

        graded = [is_correct(t.text, t.problem.answer) for t in self.traces if t.problem]
        return {
            "hook_name": hook_name,
            "traces": len(self.traces),
            "analysed": len(self.analysed),
            "accuracy": float(np.mean(graded)),
            "finished": float(np.mean([trace.stop_reason == "eos" for trace in self.traces])),
            "tokens": float(np.mean([len(trace) for trace in self.traces])),
            "peaks": mean("count"),
            "ratio": mean("ratio"),
            "interval": mean("interval_mean"),
            "mi": mean("mean"),
            "aom": mean("aom"),
        }


def run_generate(config: GenerateConfig) -> list[Trace]:
    """Generates traces into `config.out`/traces.jsonl; continues a run that was killed."""
    problems = _problems(config)
    model = _model(config)
    return _generate(config, model, problems, open_run(config, model_fingerprint(model)))


def analyze(config: AnalyzeConfig) -> Analysis:
    """Generates traces, reads their states, and finds peaks and the words they decode to.

    Writes to `config.out`, each result before the next begins: run.json, traces.jsonl,
    activations/ (a safetensors file a trace), trajectories.jsonl, peaks.json,
    thinking_tokens.json. A run that was killed continues where it was.

    Raises:
        ValueError: If there are no problems, a problem lacks what `config.site` reads, a hook name
            does not exist, or no trace is long enough to have peaks.
        FileExistsError: If the folder holds something else.
    """
    problems = _problems(config)
    _require_solutions(problems, config)
    model = _model(config)
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    hook_names = tuple(resolve_hook_names(model, config.hook_names or (last,)))
    # From here on the folder exists: what can be refused was refused.
    folder = open_run(config, model_fingerprint(model))
    traces = _generate(config, model, problems, folder)
    trajectories = _trajectories(config, model, traces, hook_names, folder)
    if not trajectories:
        raise ValueError(
            f"none of {len(traces)} traces has {MINIMUM_STEPS} steps, which peaks need; raise "
            "max_new_tokens, or look at traces.jsonl for why the model stops at once"
        )
    analysed = [trace for trace in traces if trace.id in trajectories]
    analysis = Analysis(
        config=config,
        traces=tuple(traces),
        token_strings=tuple(trace.token_strings(model.tokenizer) for trace in traces),
        hook_names=hook_names,
        trajectories=trajectories,
        tokens={
            name: _tokens(config, model, analysed, trajectories, name, folder)
            for name in hook_names
        },
    )
    _write_findings(analysis, folder)
    return analysis


def _problems(config: GenerateConfig) -> list[Problem]:
    return load_problems(config.problems, limit=config.limit, split=config.split, seed=config.seed)


def _model(config: GenerateConfig):
    return load(config.model, backend=config.backend, dtype=config.dtype, device=config.device)


def _require_solutions(problems: Sequence[Problem], config: AnalyzeConfig) -> None:
    lacking = [problem.id for problem in problems if not problem.solution]
    if config.site == "solution_last" and lacking:
        raise ValueError(
            f"{len(lacking)} of {len(problems)} problems have no worked solution (the first is "
            f"{lacking[0]}), and site='solution_last' reads its last token; use "
            "site='answer_last' or 'answer_mean'"
        )


def _generate(config: GenerateConfig, model, problems: list[Problem], folder: Path) -> list[Trace]:
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p, top_k=config.top_k)
    requests = [
        Request(problem, config.style, sampling, config.seed, config.max_new_tokens)
        for problem in problems
    ]
    return generate_into(folder, model, requests, batch_size=config.batch_size)


def _activations(folder: Path, trace: Trace) -> Path:
    return folder / "activations" / f"{trace.id}.safetensors"


def _trajectories(
    config: AnalyzeConfig,
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    folder: Path,
) -> dict[str, Trajectories]:
    """Trajectories of all traces that are long enough, each on disk before the next is read."""
    path = folder / "trajectories.jsonl"
    drop_torn_line(path)
    done = {row["trace"]: row["mi"] for row in read_jsonl(path)} if path.exists() else {}
    answers: dict[str, States] = {}
    long_enough = [trace for trace in traces if len(trace) >= MINIMUM_STEPS]
    for trace in tqdm(long_enough, desc="read", unit="trace"):
        if trace.id in done and _activations(folder, trace).exists():
            continue
        assert trace.problem is not None  # Requests were made of problems.
        if trace.problem.id not in answers:
            answers[trace.problem.id] = answer_state(
                model, trace.problem, hook_names, site=config.site, template=config.template
            )
        (states,) = capture(model, [trace], hook_names)
        try:
            mi = mi_trajectories(states, answers[trace.problem.id], sigma=config.sigma)
        except ValueError as error:
            raise ValueError(f"trace {trace.id}: {error}") from error
        save_activations(states, _activations(folder, trace), trace=trace.id, model=trace.model)
        row = dict(zip(hook_names, mi.tolist(), strict=True))
        append_jsonl(path, {"trace": trace.id, "mi": row})
        done[trace.id] = row
    return {trace.id: done[trace.id] for trace in long_enough}


def _tokens(
    config: AnalyzeConfig,
    model,
    traces: Sequence[Trace],
    trajectories: dict[str, Trajectories],
    hook_name: str,
    folder: Path,
) -> ThinkingTokens:
    states = None
    if config.readout == "logit_lens":
        states = [load_activations(_activations(folder, trace))[hook_name] for trace in traces]
    return thinking_tokens(
        model,
        traces,
        [find_peaks(trajectories[trace.id][hook_name], config.tau).tolist() for trace in traces],
        readout=config.readout,
        states=states,
        seed=config.seed,
    )


def _write_findings(analysis: Analysis, folder: Path) -> None:
    write_json(
        folder / "peaks.json",
        {
            "summaries": [analysis.summary(name) for name in analysis.hook_names],
            "too_short": [t.id for t in analysis.traces if t.id not in analysis.trajectories],
            "peaks": [
                {
                    "trace": trace.id,
                    "hook_name": name,
                    "peaks": analysis.peaks(trace, name),
                    **asdict(analysis.statistics(trace, name)),
                }
                for trace in analysis.analysed
                for name in analysis.hook_names
            ],
        },
    )
    write_json(
        folder / "thinking_tokens.json",
        {name: asdict(table) for name, table in analysis.tokens.items()},
    )
