"""Traces as the page's viewer reads them: as JSON, with long rows of numbers packed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mi_lens.evaluation.along_trace import Effect, belief_lines
from mi_lens.information.per_trace.belief import Belief
from mi_lens.information.per_trace.controls import Calibration
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.information.per_trace.settled import settled
from mi_lens.report.coloured_trace import colour_range
from mi_lens.report.loading import Verdict
from mi_lens.report.packing import packed
from mi_lens.report.palette import SHADES
from mi_lens.runs.analysis import Analysis
from mi_lens.traces.think_block import boundary_steps, writes_lines
from mi_lens.traces.thoughts import split_thoughts
from mi_lens.traces.trace import Trace

# Where the shades of the specific part meet, in standard deviations of the other answers.
SPECIFIC_EDGES = (-2.0, -1.0, 1.0, 2.0, 4.0, 8.0)
TOKEN_FIELDS = ("wanted", "emitted", "consumed")  # Fields of an event that hold a token id.


def rounded(values: ArrayLike) -> list[float]:
    """Numbers rounded to four significant digits."""
    return [float(f"{value:.4g}") for value in np.asarray(values, dtype=float).tolist()]


def trace_data(
    trace: Trace,
    tokenizer: Any,
    analysis: Analysis | None,
    verdicts: Mapping[str, Verdict],
    effects: Sequence[Effect] = (),
) -> dict[str, Any]:
    """Everything that the viewer shows of one trace.

    Args:
        trace: The trace.
        tokenizer: The tokenizer of its model.
        analysis: The analysis that holds its measurements and its belief; None where nothing was
            measured.
        verdicts: Trace id to verdict.
        effects: Effects of its tokens and thoughts.
    """
    measurements = {} if analysis is None else analysis.measurements.get(trace.id, {})
    rule = PAPER_RULE if analysis is None else analysis.peak_rule
    verdict = verdicts.get(trace.id)
    covariates = next(iter(measurements.values())).covariates if measurements else {}
    problem = trace.problem
    return {
        "id": trace.id,
        "question": trace.prompt if problem is None else problem.question,
        "gold": None if problem is None else problem.answer,
        "answer": None if verdict is None else verdict.answer,
        "correct": None if verdict is None else verdict.correct,
        "stop": trace.stop_reason,
        "seed": trace.seed,
        "condition": trace.condition.get("name"),
        "tokens": trace.token_strings(tokenizer),
        "blocks": blocks(tokenizer, trace),
        "entropy": packed(covariates["entropy"]) if covariates else None,
        "surprisal": packed(covariates["surprisal"]) if covariates else None,
        "events": _events(trace, tokenizer),
        "belief": None if analysis is None else _belief(analysis.beliefs.get(trace.id)),
        "effects": _effects(effects),
        "hooks": [_layer(name, measurement, rule) for name, measurement in measurements.items()],
    }


def blocks(tokenizer: Any, trace: Trace) -> list[list[Any]]:
    """Divides a trace into blocks: [first step, thought class].

    A block is a thought with the boundary that closes it, or the text between two thoughts, whose
    class is None. With a tokenizer that writes no line ends, the whole trace is one block.
    """
    if not writes_lines(tokenizer):
        return [[0, None]]
    boundaries = set(boundary_steps(tokenizer, trace.token_ids))
    parts: list[list[Any]] = []
    end = 0
    for thought in split_thoughts(tokenizer, trace):
        if thought.start > end:
            parts.append([end, None])
        parts.append([thought.start, thought.thought_class])
        end = thought.stop
        if end in boundaries:
            end += 1
    if end < len(trace):
        parts.append([end, None])
    return parts


def _belief(belief: Belief | None) -> dict[str, Any] | None:
    """The steps at which the model was asked, and its belief in each answer there."""
    lines = () if belief is None else belief_lines(belief)
    if belief is None or not lines:
        return None
    return {
        "cuts": list(belief.cuts),
        "settled": settled(belief).step,
        "lines": [
            {
                "name": line.name,
                "answer": line.answer,
                "values": rounded(np.array(line.probabilities)),
            }
            for line in lines
        ],
    }


def _effects(effects: Sequence[Effect]) -> list[list[Any]]:
    """[first step, step after the last, effect, low, high] of every token and thought."""
    return [
        [each.start, each.stop, each.effect.mean, each.effect.low, each.effect.high]
        for each in effects
        if each.effect.mean is not None
    ]


def _layer(hook_name: str, measurement: Measurement, rule: PeakRule) -> dict[str, Any]:
    low, high = colour_range(measurement.mi)
    edges = np.linspace(low, high, SHADES)[1:]
    return {
        "name": hook_name,
        "mi": packed(measurement.mi),
        "edges": rounded(edges),
        "threshold": rounded([rule.threshold(measurement.mi)])[0],
        "peaks": find_peaks(measurement.mi, rule).tolist(),
        "specific": _specific(measurement.calibration, rule),
    }


def _specific(calibration: Calibration | None, rule: PeakRule) -> dict[str, Any] | None:
    if calibration is None:
        return None
    return {
        "values": packed(calibration.specific),
        "edges": list(SPECIFIC_EDGES),
        "threshold": rounded([rule.threshold(calibration.specific)])[0],
        # Null: there are too few other answers for any peak to be significant.
        "peaks": calibration.peaks(rule).tolist() if calibration.decides() else None,
        "others": calibration.others,
        "mean": packed(calibration.mean),
        "std": packed(calibration.std),
        "p": packed(calibration.p_values),
        "family": packed(calibration.family_p_values),
    }


def _events(trace: Trace, tokenizer: Any) -> list[list[Any]]:
    """[step, what happened there] for every event of an intervention; token ids as text."""
    events = []
    for event in trace.events:
        details = [
            f"{key} {_event_value(key, value, tokenizer)}"
            for key, value in event.items()
            if key not in ("step", "what")
        ]
        # `Steer` counts the positions of a prompt backwards from step 0.
        events.append([max(event["step"], 0), " ".join([str(event["what"]), *details])])
    return events


def _event_value(key: str, value: Any, tokenizer: Any) -> str:
    if key in TOKEN_FIELDS and isinstance(value, int):
        return repr(tokenizer.decode([value]))
    return str(value)


def thinking_words(analysis: Analysis | None) -> dict[str, Sequence[str]]:
    """Hook name to the words whose lift has an interval above 1."""
    if analysis is None:
        return {}
    return {
        name: [row.word for row in table.rows if row.lifted]
        for name, table in analysis.tokens.items()
    }
