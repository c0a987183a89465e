"""Whether MI grows toward the answer: raw, specific and mismatched MI over whole traces.

python -m experiments.mi_along_trace
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIStudy, fingerprint_of, saved_analysis
from experiments.study import save
from experiments.summaries import is_right, with_interval
from mi_lens.common.intervals import estimate_unpaired_difference
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.report.plots.peaks import resampled
from mi_lens.report.plots.style import (
    BLUE,
    GREY,
    MI_LABEL,
    ORANGE,
    PAGE,
    curve,
    dots,
    legend_above,
    style,
)

COLOURS = {"right": BLUE, "wrong": ORANGE}
SMALL = 0.05  # Rise over a whole trace, in standard deviations over steps, that would matter.
NOTHING = Estimate(None, None, None, 0)
KINDS = ("raw", "other answers", "specific")
Slopes = dict[str, dict[str, list[Estimate]]]  # By kind, then right or wrong, then block.


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run. `max_new_tokens` must let traces end by themselves.

    Attributes:
        points: Number of fractions of the trace at which the mean is drawn.
    """

    points: int = 25


def main(config: Config) -> None:
    """Compares MI along right and along wrong traces, at every block."""
    analysis = saved_analysis(config)
    right = is_right(analysis.analysed)
    masks = {name: right == value for name, value in (("right", 1), ("wrong", 0))}
    groups = {
        name: [trace for trace, inside in zip(analysis.analysed, mask, strict=True) if inside]
        for name, mask in masks.items()
        if mask.any()
    }
    measurements = {
        name: [
            [analysis.measurement(trace, hook) for trace in group] for hook in analysis.hook_names
        ]
        for name, group in groups.items()
    }
    slopes: Slopes = {
        kind: {
            name: [slope(block, kind) for block in blocks] for name, blocks in measurements.items()
        }
        for kind in KINDS
    }
    means = {
        kind: {
            name: mean_curve(blocks[-1], kind, config.points)
            for name, blocks in measurements.items()
        }
        for kind in KINDS
    }
    for kind, by_name in slopes.items():
        for name, blocks in by_name.items():
            cells = [with_interval(estimate, digits=3) for estimate in blocks]
            print(f"{kind}, {name}: slope by block " + ", ".join(cells))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(means, slopes, {name: len(group) for name, group in groups.items()}),
        finding(slopes, analysis.hook_names[-1], means),
        {"hook_names": analysis.hook_names, "slopes": slopes, "means (last block)": means},
    )


def trajectory(measurement: Measurement, kind: str) -> np.ndarray:
    """The MI with the gold answer, the mean MI with other answers, or the specific part."""
    assert measurement.calibration is not None
    return {
        "raw": measurement.mi,
        "other answers": measurement.calibration.mean,
        "specific": measurement.calibration.specific,
    }[kind]


def slope(measurements: list[Measurement], kind: str) -> Estimate:
    """Rise of a straight line from start to end of a trace, in standard deviations over steps.

    The standard deviation is that of the trajectory itself, so blocks and kinds can be compared.
    """
    slopes = []
    for measurement in measurements:
        mi = trajectory(measurement, kind)
        if np.ptp(mi) > 0:
            slopes.append(float(np.polyfit(np.linspace(0, 1, len(mi)), mi, 1)[0] / mi.std()))
    return estimate_mean(slopes)


def mean_curve(measurements: list[Measurement], kind: str, points: int) -> list[Estimate]:
    """Means over traces at fractions of their length; each point is the mean of its part."""
    smooth = []
    for measurement in measurements:
        mi = trajectory(measurement, kind)
        parts = np.array_split(mi, min(points, len(mi)))
        smooth.append(resampled([part.mean() for part in parts], points))
    return [estimate_mean(column) for column in np.array(smooth).T.tolist()]


def draw(means, slopes: Slopes, counts: Mapping[str, int]) -> Figure:
    """MI along the trace at the last block, and its slope at every block."""
    with style():
        figure, panels = plt.subplots(1, 4, figsize=(PAGE, 2.3), width_ratios=(1, 1, 0.7, 0.7))
        labels = {"raw": MI_LABEL, "specific": "specific part (SD)"}
        for axes, (kind, label) in zip(panels[:2], labels.items(), strict=True):
            for name, estimates in means[kind].items():
                x = np.linspace(0, 1, len(estimates)).tolist()
                if kind == "raw":
                    others = [estimate.mean for estimate in means["other answers"][name]]
                    axes.plot(x, others, color=COLOURS[name], linestyle=":", linewidth=0.8)
                curve(axes, x, estimates, COLOURS[name], f"{name} traces ({counts[name]})")
            axes.set_xlabel("fraction of the trace")
            axes.set_ylabel(label)
        panels[0].plot([], [], ":", color=GREY, label="with other answers")
        for axes, kind in zip(panels[2:], labels, strict=True):
            for i, (name, estimates) in enumerate(slopes[kind].items()):
                dots(axes, estimates, COLOURS[name], shift=0.16 * (i - 0.5))
            axes.axvline(0, color="black", linewidth=0.5)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(-0.5)
            axes.set_xlabel(f"rise of {kind} MI\nover the trace (SD)")
        panels[2].set_ylabel("block")
        legend_above(figure, panels[0])
    return figure


def finding(slopes: Slopes, last: str, means) -> Finding:
    """Whether raw MI and its specific part rise, and more along right than along wrong traces."""
    name = "right" if "right" in slopes["raw"] else "wrong"
    raw, specific, others = (
        slopes[kind][name][-1] for kind in ("raw", "specific", "other answers")
    )
    wrong = slopes["specific"].get("wrong", [NOTHING])[-1] if name == "right" else NOTHING
    # A rise that wrong traces share is no progress to the right answer.
    rises = {
        f"rise of raw MI in {name} traces": raw,
        f"rise of the specific part in {name} traces": specific,
        "rise of the specific part in right traces less that in wrong ones": (
            estimate_unpaired_difference(specific, wrong)
        ),
    }
    end = [estimate.mean for estimate in means["raw"][name]]
    tenth = max(1, len(end) // 10)
    parts = " and by ".join(
        f"{with_interval(estimates[-1], digits=2)} in {group} traces"
        for group, estimates in slopes["specific"].items()
    )
    return Finding(
        about="paper 1, MI trajectories; criticism: should MI not grow toward the answer?",
        claim="If MI measures progress to the answer, it grows along a trace.",
        tests=tuple(
            ClaimTest(rise, estimate, SMALL, "standard deviations")
            for rise, estimate in rises.items()
        ),
        text=f"At {last} the raw MI of {name} traces rises from start to end by "
        f"{with_interval(raw, digits=2)} of its standard deviations over steps, MI with other "
        f"problems' answers by {with_interval(others, digits=2)} of its own, and raw MI's mean in "
        f"the last tenth is {np.mean(end[-tenth:]):.3f} after {np.mean(end[:tenth]):.3f} in the "
        f"first. The specific part rises by {parts}, in its own standard deviations.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
