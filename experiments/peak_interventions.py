"""Whether peaks are crucial steps: their tokens are forbidden, beside tokens as uncertain.

Forbidding one token is weak evidence: another often says the same. Thoughts that are written anew
(`experiments.resampled_thoughts`) are the stronger one.

python -m experiments.peak_interventions
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIStudy, fingerprint_of, saved_analysis
from experiments.study import requested_traces, save
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.statistics import Estimate, estimate_crossed
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, dots, style

MATCHED = "as uncertain as raw peaks"
GROUPS = ("raw peaks", "highest specific part", "highest entropy", MATCHED, "any steps")
CONTROLS = (MATCHED, "any steps")
POINTS = 5.0  # Further harm at peaks that would matter, in points of success.
NEAREST = 5  # Number of steps of nearest entropy from which a control is drawn.


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run.

    Attributes:
        tried: Largest number of traces; the first that have enough raw peaks are taken.
        steps: Number of steps of each kind in every trace.
        draws: Number of random choices of peaks, of their matched steps and of any steps.
    """

    tried: int = 60
    steps: int = 3
    draws: int = 5


def main(config: Config) -> None:
    """Forbids the token at each chosen step and continues greedily from there."""
    analysis = saved_analysis(config)
    last = analysis.hook_names[-1]
    traces = traces_with_peaks(analysis, last, config)
    steps = [
        [
            steps_by_group(
                analysis.measurement(trace, last),
                config,
                np.random.default_rng([config.seed, i, j]),
            )
            for j in range(config.draws)
        ]
        for i, trace in enumerate(traces)
    ]
    success = success_without(config, traces, steps)
    before = is_right(traces)
    changes = {name: table(steps, name, success) - before for name in GROUPS}
    bits = [analysis.measurement(trace, last).covariates["entropy"] for trace in traces]
    entropy = {
        name: table(steps, name, lambda trace, step: float(bits[trace][step])) for name in GROUPS
    }
    effects = {
        name: {
            "change": estimate_crossed(changes[name]),
            "less matched": estimate_crossed(changes[name] - changes[MATCHED]),
            "less any steps": estimate_crossed(changes[name] - changes["any steps"]),
            "entropy": estimate_crossed(entropy[name]),
        }
        for name in GROUPS
    }
    for name, row in effects.items():
        change, bits = with_interval(row["change"], 100), with_interval(row["entropy"], digits=2)
        print(f"{name:<28}success changes by {change:>24} points, entropy {bits} bits")
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(effects),
        finding(effects, last, len(traces), config),
        {
            "groups": effects,
            "steps": [
                {"trace": trace.id, "draws": of_trace}
                for trace, of_trace in zip(traces, steps, strict=True)
            ],
        },
    )


Steps = Sequence[Sequence[Mapping[str, Sequence[int]]]]  # By trace, then draw, then group.


def success_without(
    config: Config, traces: Sequence[mi_lens.Trace], steps: Steps
) -> Callable[[int, int], float]:
    """Whether a trace (by its place) is right when gone on with from a step without its token."""
    model = mi_lens.load(config.model)
    pairs = [
        (i, step)
        for i, of_trace in enumerate(steps)
        for step in sorted({step for draw in of_trace for group in draw.values() for step in group})
    ]
    requests = [forbidding(traces[i], step, config) for i, step in pairs]
    right = is_right(requested_traces(config, model, requests))
    found = dict(zip(pairs, right.tolist(), strict=True))
    return lambda trace, step: found[trace, step]


def table(steps: Steps, name: str, value: Callable[[int, int], float]) -> np.ndarray:
    """The mean of a value over a group's steps; rows are draws of steps, columns traces."""
    rows = [
        [np.mean([value(i, step) for step in draw[name]]) for draw in of_trace]
        for i, of_trace in enumerate(steps)
    ]
    return np.array(rows).T


def traces_with_peaks(
    analysis: mi_lens.Analysis, hook_name: str, config: Config
) -> list[mi_lens.Trace]:
    """The first traces that have `config.steps` raw peaks or more."""
    traces = [
        trace
        for trace in analysis.analysed
        if len(analysis.peaks(trace, hook_name)) >= config.steps
    ][: config.tried]
    if len(traces) < 2:
        raise ValueError(
            f"{len(traces)} of {len(analysis.analysed)} traces have {config.steps} raw peaks; give "
            "more problems (--limit) or fewer steps (--steps)"
        )
    return traces


def steps_by_group(
    measurement: Measurement, config: Config, rng: np.random.Generator
) -> dict[str, list[int]]:
    """Steps of every group, without the last step, whose token ends the trace."""
    assert measurement.calibration is not None
    last = len(measurement.mi) - 1
    entropy = measurement.covariates["entropy"]
    raw = [step for step in mi_lens.find_peaks(measurement.mi).tolist() if step < last]
    peaks = rng.choice(raw, config.steps, replace=len(raw) < config.steps).tolist()
    free = sorted(set(range(last)) - set(raw))
    matched: list[int] = []
    for step in peaks:
        unused = [other for other in free if other not in matched]
        near = sorted(unused, key=lambda other: abs(entropy[other] - entropy[step]))[:NEAREST]
        matched.append(int(rng.choice(near)))
    return {
        "raw peaks": peaks,
        "highest specific part": top(measurement.calibration.specific[:last], config.steps),
        "highest entropy": top(entropy[:last], config.steps),
        MATCHED: matched,
        "any steps": rng.choice(last, config.steps, replace=False).tolist(),
    }


def top(values: np.ndarray, count: int) -> list[int]:
    """The `count` steps of highest value."""
    return np.argsort(-values, kind="stable")[:count].tolist()


def forbidding(trace: mi_lens.Trace, step: int, config: Config) -> mi_lens.Request:
    """A request to continue a trace greedily from a step, without the token written there."""
    assert trace.problem is not None
    return mi_lens.Request(
        trace.problem,
        mi_lens.Condition((ForbidAt(step, trace.token_ids[step]),)),
        max_new_tokens=config.max_new_tokens,
        prefix=trace.token_ids[:step],
    )


def draw(effects: Mapping[str, Mapping[str, Estimate]]) -> Figure:
    """The effect of forbidding tokens at every kind of step, alone and against matched steps."""
    names: Sequence[str] = list(effects)
    controls = [name in CONTROLS for name in names]
    markers = ["s" if control else "o" for control in controls]
    measures = (
        ("change", "success less the trace's own (points)", 100.0, BLUE),
        ("less matched", "less that at matched steps (points)", 100.0, ORANGE),
        ("entropy", "entropy there (bits)", 1.0, BLUE),
    )
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 1.7), sharey=True)
        for axes, (field, label, scale, colour) in zip(panels, measures, strict=True):
            shades = [GREY if control else colour for control in controls]
            estimates = [effects[name][field] for name in names]
            if field == "less matched":
                estimates[names.index(MATCHED)] = Estimate(None, None, None, 0)
            dots(axes, estimates, shades, scale=scale, markers=markers)
            axes.axvline(0, color="black", linewidth=0.5)
            axes.set_xlabel(label, fontsize=7)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def finding(
    effects: Mapping[str, Mapping[str, Estimate]], last: str, count: int, config: Config
) -> Finding:
    """Whether forbidding tokens harms more at raw peaks than at matched steps and at any steps."""
    less = {
        MATCHED: effects["raw peaks"]["less matched"],
        "any steps": effects["raw peaks"]["less any steps"],
    }
    raw, specific, uncertain, matched, anywhere = (
        with_interval(effects[name]["change"], 100) for name in GROUPS
    )
    return Finding(
        about="paper 1: peaks as crucial steps, by forbidding one token; weak evidence, see "
        "resampled_thoughts",
        claim="MI peaks are crucial steps of the reasoning.",
        tests=tuple(
            ClaimTest(
                f"harm at raw peaks less that at {name}", affine(less[name], -100), POINTS, "points"
            )
            for name in CONTROLS
        ),
        text=f"Forbidding the token at a raw peak of {last} changes success by {raw} points, at "
        f"steps matched in entropy only, no peaks, by {matched} (difference "
        f"{with_interval(less[MATCHED], 100)}) and at any steps by {anywhere} (difference "
        f"{with_interval(less['any steps'], 100)}), with {config.draws} draws of {config.steps} "
        f"steps of each kind in {count} greedy traces. At the steps of highest "
        f"specific part it changes by {specific}, at those of highest entropy by {uncertain}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
