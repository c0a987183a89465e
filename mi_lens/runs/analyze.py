"""mi-lens analyze: generates traces, reads states, finds peaks and their words, in one run."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from mi_lens.common.records import set_aside_foreign, write_record
from mi_lens.common.writing import only_writer, writing
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.information.per_trace.forced_answers import CLOSING, Question
from mi_lens.information.per_trace.peaks import (
    MINIMUM_STEPS,
    find_peaks,
)
from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens, thinking_tokens
from mi_lens.models.hook_names import last_block_output, match_hook_names
from mi_lens.models.model import Model
from mi_lens.models.processed_weights import require_unprocessed
from mi_lens.problems.problem import Problem
from mi_lens.runs.analysis import LAST_WRITTEN, Analysis
from mi_lens.runs.ask import ask_into
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.runs.folder import open_run, record_reader
from mi_lens.runs.generate import conditions_of, requests_of
from mi_lens.runs.measure import Measurements, activations_path, measure_into
from mi_lens.runs.measure_on_engine import reading_engine
from mi_lens.states.segments import widths
from mi_lens.states.shard import load_activations
from mi_lens.traces.trace import Trace


def analyze(config: AnalyzeConfig, *, progress: bool = True) -> Analysis:
    """Generates traces, reads their states, and finds peaks and the words they decode to.

    Writes run.json, traces.jsonl, activations/ (one safetensors file per trace, unless
    `keep_states` is False), readings.jsonl, belief.jsonl (if `belief` is set), peaks.json,
    controls.json and thinking_tokens.json to `config.out`. Each result is written before the next
    begins; a run that was killed continues where it stopped. If another engine generates, it is
    closed, and then the model is loaded as a HookedTransformer or TransformerBridge and reads the
    traces, unless `read_with` is "engine".

    Args:
        config: The settings of the run.
        progress: See `generate`.

    Raises:
        ValueError: If there are no problems, a problem lacks what `config.site` reads, a hook name
            does not exist, or no trace is long enough to have peaks.
        FileExistsError: If the folder holds anything other than this run.
    """
    problems = config.load_problems(config.seed)
    _require_solutions(problems, config)
    with closing(config.load_engine(config.model)) as engine:
        plan = Plan(engine)
        read_at = config.hook_names or last_block_output(plan.model)
        hook_names = tuple(match_hook_names(plan.model, read_at))
        _require_states_at(plan.model, hook_names)
        if config.read_with == "engine":
            reading_engine(engine).require_hook_names(hook_names)
        if config.belief is not None:
            Question.of(plan.model, config.asking, CLOSING)
        requests = requests_of(config, plan, problems)
        # All checks come before this line, so that a refused run leaves no folder.
        folder = open_run(config, plan.fingerprint, engine.name, problems, conditions_of(requests))
        with only_writer(folder), writing(folder / "run.json"):
            return _analyze_into(folder, config, plan, requests, hook_names, progress)


def _analyze_into(
    folder: Path,
    config: AnalyzeConfig,
    plan: Plan,
    requests: Sequence[Request],
    hook_names: tuple[str, ...],
    progress: bool,
) -> Analysis:
    ids = list(map(plan.trace_id, requests))
    set_aside_foreign(folder / "traces.jsonl", "id", ids)
    for name in ("readings.jsonl", "belief.jsonl"):
        set_aside_foreign(folder / name, "trace", ids)
    traces = generate_into(folder, plan, requests, batch_size=config.batch_size, progress=progress)
    reader = _reader(config, plan, folder)
    model = reader.model
    measurements = measure_into(folder, config, reader, traces, hook_names, progress=progress)
    if not measurements:
        raise ValueError(
            f"none of {len(traces)} traces has {MINIMUM_STEPS} steps, which peaks need; raise "
            "max_new_tokens, or look at traces.jsonl for why the model stops at once"
        )
    analysed = [trace for trace in traces if trace.id in measurements]
    beliefs = {}
    if config.belief is not None:
        beliefs = ask_into(folder, model, traces, config.belief, config.asking, progress=progress)
    analysis = Analysis(
        config=config,
        traces=tuple(traces),
        token_strings=tuple(trace.token_strings(model.tokenizer) for trace in traces),
        hook_names=hook_names,
        measurements=measurements,
        tokens={
            name: _tokens(config, model, analysed, measurements, name, folder)
            for name in hook_names
        },
        beliefs=beliefs,
    )
    _write_findings(analysis, folder)
    return analysis


def _reader(config: AnalyzeConfig, plan: Plan, folder: Path) -> Plan:
    """The plan of the model that reads the traces: another one if another engine wrote them.

    An engine that reads what it wrote goes on. A model is loaded once the engine has freed its
    memory, and the folder keeps its fingerprint too.
    """
    if plan.engine.own or config.read_with == "engine":
        return plan
    plan.engine.close()
    reader = Plan(config.load_model(config.model))
    record_reader(folder, reader.fingerprint)
    return reader


def _require_states_at(model: Model, hook_names: Sequence[str]) -> None:
    """Raises a ValueError unless hooks hold states of shape (batch, pos, d), with d above 1."""
    require_unprocessed(model)
    for name, width in widths(model, hook_names).items():
        if width < 2:
            raise ValueError(
                f"hook name {name!r} holds {width} number per position; expected a state, such as "
                "a block's hook_resid_post"
            )


def _require_solutions(problems: Sequence[Problem], config: AnalyzeConfig) -> None:
    lacking = [problem.id for problem in problems if not problem.solution]
    if config.site == "solution_last" and lacking:
        raise ValueError(
            f"{len(lacking)} of {len(problems)} problems have no worked solution (the first is "
            f"{lacking[0]}), and site='solution_last' reads its last token; use "
            "site='answer_last' or 'answer_mean'"
        )


def _tokens(
    config: AnalyzeConfig,
    model: Model,
    traces: Sequence[Trace],
    measurements: dict[str, Measurements],
    hook_name: str,
    folder: Path,
) -> ThinkingTokens:
    states = None
    if config.readout == "logit_lens":
        states = [load_activations(activations_path(folder, trace))[hook_name] for trace in traces]
    return thinking_tokens(
        model,
        traces,
        [find_peaks(measurements[trace.id][hook_name].mi, config.peak_rule()) for trace in traces],
        readout=config.readout,
        states=states,
        seed=config.seed,
    )


def _write_findings(analysis: Analysis, folder: Path) -> None:
    write_record(
        folder / "peaks.json",
        {
            "traces": [trace.id for trace in analysis.traces],
            "summaries": [analysis.summary(name) for name in analysis.hook_names],
            "too_short": [t.id for t in analysis.traces if t.id not in analysis.measurements],
            "peaks": [
                {
                    "trace": trace.id,
                    "hook_name": name,
                    "peaks": analysis.peaks(trace, name),
                    "specific_peaks": analysis.specific_peaks(trace, name),
                    **asdict(analysis.statistics(trace, name)),
                }
                for trace in analysis.analysed
                for name in analysis.hook_names
            ],
        },
    )
    write_record(
        folder / "controls.json",
        {
            name: {
                **asdict(analysis.controls(name)),
                "endings": {k: asdict(row) for k, row in analysis.endings(name).items()},
            }
            for name in analysis.hook_names
        },
    )
    write_record(
        folder / LAST_WRITTEN,
        {name: asdict(table) for name, table in analysis.tokens.items()},
    )
