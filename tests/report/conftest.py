"""Run folders that no model made, and a browser to open their pages in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from mi_lens.common.provenance import content_hash, versions
from mi_lens.common.records import write_record, write_records
from mi_lens.evaluation.graded_traces import grade_trace
from mi_lens.information.per_trace.controls import Calibration
from mi_lens.information.per_trace.measurement import Measurement, measurement_to_row
from mi_lens.information.per_trace.thinking_tokens import thinking_tokens
from mi_lens.problems.problem import Problem
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.analyze import _write_findings
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import trace_to_row

THOUGHTS = (
    "So let me think about this. First, 12 * 7 = 84 and 84 - 5 = 79.\n\n"
    "Wait, let me check that again. The product of the two numbers is not what I guessed.\n\n"
    "Alternatively, I can swap the factors: another way.\n\n"
)
VERSIONS = versions()
Build = Callable[..., Analysis]


def a_trace(tokenizer: Any, text: str, question: str, **fields: Any) -> Trace:
    """A trace of a text, with a problem whose answer is 79."""
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    problem = Problem(content_hash(question), question, "79", "12 * 7 - 5 = 79", "synthetic")
    defaults = {"id": content_hash([question, text]), "condition": {"name": "baseline"}}
    return Trace(
        **{**defaults, **fields},
        model="synthetic",
        prompt=question,
        prompt_ids=(0, 9),
        token_ids=ids,
        text=text,
        stop_reason="eos",
        problem=problem,
    )


def a_measurement(steps: int, seed: int, others: int = 64) -> Measurement:
    """Heavy tails, as MI has, and a calibration that goes with them."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.5, 0.02, steps)
    mean, std = raw * rng.uniform(0.3, 1.0, steps), rng.uniform(0.002, 0.02, steps)
    p_values = rng.integers(1, 65, steps) / 65
    family = np.where(rng.uniform(size=steps) < 0.3, 1 / 65, 0.5)
    calibration = Calibration(
        others,
        raw,
        mean,
        std,
        (raw - mean) / std,
        p_values,
        false_discovery_control(p_values),
        family,
        chance_peaks=0.25,
        chance_shared=0.125,
    )
    covariates = {
        "entropy": rng.gamma(1, 0.5, steps),
        "surprisal": rng.gamma(1, 0.5, steps),
        "norm": rng.uniform(5, 9, steps),
        "position": np.arange(steps, dtype=float),
    }
    return Measurement(raw, calibration, covariates, {"answer permuted": raw[::-1].copy()}, 0)


@pytest.fixture(scope="session")
def build(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(folder, texts, hook_names)` writes what `analyze` would have."""
    checkpoint = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(checkpoint)

    def make(
        folder: Path,
        texts: Sequence[str],
        hook_names: Sequence[str],
        questions: Sequence[str] | None = None,
        events: tuple[dict[str, Any], ...] = (),
        others: int = 64,
    ) -> Analysis:
        config = AnalyzeConfig(out=folder, model=str(checkpoint), hook_names=tuple(hook_names))
        named = questions or [f"What is 12 * 7 - 5? ({i})" for i in range(len(texts))]
        traces = tuple(
            a_trace(tokenizer, text, question, events=events)
            for text, question in zip(texts, named, strict=True)
        )
        measurements = {
            trace.id: {
                name: a_measurement(len(trace), 10 * i + j, others)
                for j, name in enumerate(hook_names)
            }
            for i, trace in enumerate(traces)
        }
        strings = tuple(trace.token_strings(tokenizer) for trace in traces)
        analysis = Analysis(config, traces, strings, tuple(hook_names), measurements, {})
        model: Any = SimpleNamespace(tokenizer=tokenizer, cfg=None, hooks=list, state_dict=dict)
        for name in hook_names:
            peaks = [analysis.peaks(trace, name) for trace in traces]
            analysis.tokens[name] = thinking_tokens(model, traces, peaks)
        settings = {k: v for k, v in asdict(config).items() if k not in ("out", "batch_size")}
        record = {
            "command": "analyze",
            "config": settings,
            "model": "x",
            "versions": VERSIONS,
            "problems": {"count": config.limit or 100},
        }
        write_record(folder / "run.json", record)
        # As they finish: not in order.
        write_records(folder / "traces.jsonl", [trace_to_row(trace) for trace in reversed(traces)])
        rows = [
            {"trace": trace, "readings": {k: measurement_to_row(v) for k, v in by_hook.items()}}
            for trace, by_hook in measurements.items()
        ]
        write_records(folder / "readings.jsonl", rows)
        _write_findings(analysis, folder)
        return analysis

    return make


@pytest.fixture(scope="session")
def build_evaluation(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`build_evaluation(folder, {condition: texts})` writes what `evaluate` would have so far."""
    checkpoint = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(checkpoint)

    def make(folder: Path, texts: Mapping[str, Sequence[str]]) -> list[Trace]:
        config = EvaluateConfig(
            out=folder,
            model=str(checkpoint),
            problems="gsm8k",
            limit=len(next(iter(texts.values()))),
            conditions=tuple(texts),
        )
        traces = [
            a_trace(
                tokenizer,
                text,
                f"What is 12 * 7 - 5? ({i})",
                id=content_hash([name, i]),
                condition={"name": name},
            )
            for name, of_condition in texts.items()
            for i, text in enumerate(of_condition)
        ]
        settings = {k: v for k, v in asdict(config).items() if k not in ("out", "batch_size")}
        record = {
            "command": "evaluate",
            "config": settings,
            "model": "x",
            "versions": VERSIONS,
            "problems": {"count": config.limit or 100},
        }
        write_record(folder / "run.json", record)
        write_records(folder / "traces.jsonl", [trace_to_row(trace) for trace in traces])
        rows = [asdict(grade_trace(trace, tokenizer)) for trace in traces]
        write_records(folder / "results.jsonl", rows)
        return traces

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api")
    from experiments.timings.opening import browser_here  # which needs playwright

    executable = browser_here()
    if executable is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()
