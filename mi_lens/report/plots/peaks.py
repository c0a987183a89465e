"""Figures of trajectories and their peaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_lens.common.statistics import mean_interval
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.report.plots.style import (
    BLUE,
    GREEN,
    GREY,
    MI_LABEL,
    ORANGE,
    PAGE,
    legend_above,
    style,
)


@dataclass(frozen=True)
class Curve:
    """One trace's trajectory to draw.

    Attributes:
        title: The title of its panel.
        mi: One value per step.
        peaks: Its peaks.
        labels: One text per step, which is written at the step if it is a peak.
        mismatched: Where MI with other problems' answers lies: its low and its high end, each with
            one value per step.
        specific_peaks: The significant peaks of the specific part; None if they are unknown.
    """

    title: str
    mi: Sequence[float]
    peaks: Sequence[int]
    labels: Sequence[str]
    mismatched: tuple[Sequence[float], Sequence[float]] | None = None
    specific_peaks: Sequence[int] | None = None


def trajectories_figure(
    curves: Sequence[Curve], rule: PeakRule = PAPER_RULE, labelled: int = 8
) -> Figure:
    """MI against step, one panel per trace; peaks are marked and the highest are labelled.

    Dots are raw peaks; rings are significant peaks of the specific part. The band is where
    MI with other problems' answers lies.
    """
    if not curves:
        raise ValueError("no trajectories to draw; expected at least one")
    with style():
        figure, panels = plt.subplots(
            len(curves), 1, figsize=(PAGE, 1.4 * len(curves) + 0.5), squeeze=False
        )
        for axes, curve in zip(panels[:, 0], curves, strict=True):
            draw_curve(axes, curve, rule, labelled)
        legend_above(figure, panels[0, 0])
        panels[-1, 0].set_xlabel("step $t$ (generated tokens)")
        figure.supylabel(MI_LABEL, fontsize=8)
    return figure


def draw_curve(axes: Axes, curve: Curve, rule: PeakRule, labelled: int) -> None:
    """One trajectory with its band, its threshold and its peaks, as in `trajectories_figure`."""
    mi = np.asarray(curve.mi)
    peaks = np.asarray(curve.peaks, dtype=int)
    top = float(mi.max())
    if curve.mismatched is not None:
        low, high = (np.asarray(bound) for bound in curve.mismatched)
        axes.fill_between(
            range(len(mi)),
            low,
            high,
            color=GREY,
            alpha=0.25,
            linewidth=0,
            label="other answers (95 %)",
        )
        top = max(top, float(high.max()))
    axes.plot(mi, color=BLUE, linewidth=0.8, label="gold answer")
    axes.axhline(rule.threshold(mi), color=GREY, linewidth=0.7, linestyle="--", label=rule.label)
    axes.plot(peaks, mi[peaks], "o", color=ORANGE, markersize=3, label="raw peak")
    if curve.specific_peaks is not None:
        specific = np.asarray(curve.specific_peaks, dtype=int)
        axes.plot(
            specific,
            mi[specific],
            "o",
            color=GREEN,
            markersize=6,
            fillstyle="none",
            label="specific peak",
        )
    span = top - float(mi.min()) or 1.0
    room: list[int] = []
    for step in sorted(peaks.tolist(), key=lambda step: -mi[step])[:labelled]:
        # A label needs about a fourteenth of the width.
        if all(abs(step - other) > len(mi) / 14 for other in room):
            room.append(step)
            label = str(curve.labels[int(step)])
            text = axes.annotate(
                label.strip() or repr(label)[1:-1],
                (step, mi[step]),
                xytext=(0, 4.5),
                textcoords="offset points",
                ha="right" if step > 0.95 * len(mi) else "center",  # or it is cut off
                fontsize=6.5,
                parse_math=False,
            )
            text.set_in_layout(False)
    # Headroom for labels.
    axes.set_ylim(float(mi.min()) - 0.05 * span, top + 0.25 * span)
    axes.set_xlim(-0.01 * len(mi), len(mi) * 1.01)
    axes.set_title(curve.title, parse_math=False)


def resampled(mi: Sequence[float], points: int = 50) -> Float[np.ndarray, "point"]:
    """A trajectory at evenly spaced fractions of its length."""
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(mi)), mi)


def comparison_figure(
    trajectories: Mapping[str, Sequence[Sequence[float]]],
    aoms: Mapping[str, Sequence[float]],
) -> Figure:
    """Models side by side on the same problems: mean trajectories, and the AOM of each trace.

    Args:
        trajectories: Model name to the trajectories of its traces; at least one per model.
        aoms: Model name to the AOM of every trace that has peaks.
    """
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(PAGE, 2.4), width_ratios=(2, 1), layout="constrained"
        )
        colours = dict(zip(trajectories, (BLUE, ORANGE, GREEN), strict=False))
        x = np.linspace(0, 1, 50)
        for name, curves in trajectories.items():
            values = np.stack([resampled(mi) for mi in curves])
            low, high = mean_interval(values)
            left.plot(x, values.mean(0), color=colours[name], label=f"{name} ({len(curves)})")
            left.fill_between(x, low, high, color=colours[name], alpha=0.2, linewidth=0)
        left.set_xlabel("fraction of the trace")
        left.set_ylabel(f"mean {MI_LABEL}")
        left.set_ylim(0, 1.3 * left.get_ylim()[1])  # room for the legend
        left.legend(title="model (traces), 95 % interval of the mean", title_fontsize=7)
        rng = np.random.default_rng(0)
        for i, name in enumerate(trajectories):
            values = np.asarray(aoms.get(name, []), dtype=float)
            right.plot(
                i + rng.uniform(-0.18, 0.18, len(values)),
                values,
                "o",
                color=colours[name],
                markersize=2.5,
                alpha=0.5,
                markeredgewidth=0,
            )
            if len(values):
                low, high = mean_interval(values)
                mean = values.mean()
                error = [[mean - float(low)], [float(high) - mean]]
                right.errorbar(i, mean, error, fmt="_", color="black", capsize=3, markersize=9)
        right.set_xticks(range(len(trajectories)), list(trajectories))
        right.set_xlim(-0.5, len(trajectories) - 0.5)
        right.set_ylabel("AOM of a trace (IQRs)")
        right.set_ylim(bottom=0)
    return figure
