"""Whether MI grows toward the answer: raw, specific and mismatched MI to the very end of traces.

python -m experiments.mi_along_trace
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.study import Finding, Study, Verdict, analysis, is_right, said, save, side
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
KINDS = ("raw", "other answers", "specific")
Slopes = dict[str, dict[str, list[Estimate]]]  # By kind, then right or wrong, then block.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run; give `max_new_tokens` that lets traces end by themselves.

    Attributes:
        points: Fractions of the trace at which the mean is drawn.
    """

    points: int = 25


def main(config: Config) -> None:
    """Follows MI along right and wrong traces."""
    found = analysis(config)
    right = is_right(found.analysed)
    masks = {name: right == value for name, value in (("right", 1), ("wrong", 0))}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    read = [
        [found.measurement(trace, hook) for trace in found.analysed] for hook in found.hook_names
    ]
    slopes: Slopes = {
        kind: {
            name: [slope([r for r, one in zip(block, mask, strict=True) if one], kind)
                   for block in read]
            for name, mask in masks.items()
        }
        for kind in KINDS
    }  # fmt: skip
    means = {
        kind: {name: mean_curve(read[-1], mask, kind, config.points)
               for name, mask in masks.items()}
        for kind in KINDS
    }  # fmt: skip
    for kind, by_name in slopes.items():
        for name, blocks in by_name.items():
            print(f"{kind}, {name}: slope by block " + ", ".join(said(s, digits=3) for s in blocks))
    save(
        config,
        {config.model: found.traces[0].model},
        draw(means, slopes, {name: int(mask.sum()) for name, mask in masks.items()}),
        finding(slopes, found.hook_names[-1], means),
        {"hook_names": found.hook_names, "slopes": slopes, "means (last block)": means},
    )


def trajectory(measurement: Measurement, kind: str) -> np.ndarray:
    """The MI with the gold answer, with others' on the mean, or the specific part."""
    assert measurement.calibration is not None
    return {"raw": measurement.mi, "other answers": measurement.calibration.mean,
            "specific": measurement.calibration.specific}[kind]  # fmt: skip


def slope(measurements: list[Measurement], kind: str) -> Estimate:
    """Rise from a trace's start to its end by a straight line, in standard deviations over steps.

    A standard deviation of the trajectory itself is the unit, so that blocks and kinds compare.
    """
    slopes = []
    for measurement in measurements:
        mi = trajectory(measurement, kind)
        if np.ptp(mi) > 0:
            slopes.append(float(np.polyfit(np.linspace(0, 1, len(mi)), mi, 1)[0] / mi.std()))
    return estimate_mean(slopes)


def mean_curve(
    measurements: list[Measurement], mask: np.ndarray, kind: str, points: int
) -> list[Estimate]:
    """Means over traces at fractions of their length, each point the mean of its part."""
    chosen = [trajectory(r, kind) for r, one in zip(measurements, mask, strict=True) if one]
    smooth = [resampled([part.mean() for part in np.array_split(mi, min(points, len(mi)))], points)
              for mi in chosen]  # fmt: skip
    return [estimate_mean(column) for column in np.array(smooth).T.tolist()]


def draw(means, slopes: Slopes, counts: Mapping[str, int]) -> Figure:
    """MI along the trace at the last block, and its slope at every block."""
    with style():
        figure, panels = plt.subplots(1, 4, figsize=(PAGE, 2.3), width_ratios=(1, 1, 0.7, 0.7))
        shown = ((panels[0], "raw", MI_LABEL), (panels[1], "specific", "specific part (SD)"))
        for axes, kind, label in shown:
            for name, estimates in means[kind].items():
                x = np.linspace(0, 1, len(estimates)).tolist()
                if kind == "raw":
                    others = [one.mean for one in means["other answers"][name]]
                    axes.plot(x, others, color=COLOURS[name], linestyle=":", linewidth=0.8)
                curve(axes, x, estimates, COLOURS[name], f"{name} traces ({counts[name]})")
            axes.set_xlabel("fraction of the trace")
            axes.set_ylabel(label)
        panels[0].plot([], [], ":", color=GREY, label="with other answers")
        for axes, kind in ((panels[2], "raw"), (panels[3], "specific")):
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
    """Whether raw MI and its specific part rise along right traces, more than along wrong ones."""
    name = "right" if "right" in slopes["raw"] else "wrong"
    raw, specific, others = (slopes[k][name][-1] for k in ("raw", "specific", "other answers"))
    signs = [side(one) for one in (raw, specific)]
    wrong = slopes["specific"].get("wrong", [Estimate(None, None, None, 0)])[-1].high
    # What rises as much in wrong traces is no progress to the right answer.
    more = name == "right" and wrong is not None and (specific.low or 0.0) > wrong
    verdict: Verdict = "against" if -1 in signs else "open"
    if 1 in signs:
        verdict = "with" if signs == [1, 1] and more else "in part"
    end = [one.mean for one in means["raw"][name]]
    tenth = max(1, len(end) // 10)
    parts = " and by ".join(
        f"{said(estimates[-1], digits=2)} in {group} traces"
        for group, estimates in slopes["specific"].items()
    )
    return Finding(
        about="paper 1, MI trajectories; criticism: should MI not grow toward the answer?",
        claim="If MI measures progress to the answer, it grows along a trace.",
        verdict=verdict,
        text=f"At {last} the raw MI of {name} traces rises from start to end by "
        f"{said(raw, digits=2)} of its standard deviations over steps, MI with other problems' "
        f"answers by {said(others, digits=2)} of its own, and raw MI's mean in the last tenth is "
        f"{np.mean(end[-tenth:]):.3f} after {np.mean(end[:tenth]):.3f} in the first. The specific "
        f"part rises by {parts}, in its own standard deviations.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
