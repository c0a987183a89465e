"""Figures of words: at peaks, in right and wrong traces, forbidden, attended to."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.critical_tokens import Rollouts, critical_gain, mean_gain
from mi_lens.evaluation.word_contrast import WordContrast
from mi_lens.information.per_trace.thinking_tokens import ThinkingTokens
from mi_lens.report.plots.style import BLUE, COLUMN, GREY, ORANGE, PAGE, dots, legend_above, style
from mi_lens.states.attention_to_words import AttentionTo


def tokens_figure(table: ThinkingTokens, top: int = 15) -> Figure:
    """How often each word stands at peaks, and how often its frequency alone would put it there."""
    rows = table.rows[:top]
    with style():
        figure, axes = plt.subplots(figsize=(COLUMN, 0.19 * max(len(rows), 4) + 0.9))
        y = np.arange(len(rows))
        axes.barh(y, [row.peak_count for row in rows], color=BLUE, height=0.7, label="at peaks")
        axes.plot(
            [row.step_rate * table.peaks for row in rows],
            y,
            "D",
            color=ORANGE,
            markersize=3.5,
            label="expected from frequency",
        )
        axes.set_yticks(y, [row.word for row in rows], parse_math=False)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"peaks (of {table.peaks}; {table.filtered} not words)")
        legend_above(figure, axes)
        if not rows:
            axes.text(0.5, 0.5, "no word stands at a peak", ha="center", transform=axes.transAxes)
    return figure


def words_figure(contrast: WordContrast, top: int = 16) -> Figure:
    """The words with the lowest p-values: their rate in right traces less that in wrong ones.

    Words are orange where the difference is significant among all words (family-wise, .05).
    """
    rows = sorted(contrast.rows[:top], key=lambda row: -(row.difference.mean or 0))
    with style():
        figure, axes = plt.subplots(figsize=(COLUMN, 0.17 * len(rows) + 0.8))
        per_hundred = [
            Estimate(_percent(d.mean), _percent(d.low), _percent(d.high), d.n)
            for d in (row.difference for row in rows)
        ]
        dots(axes, per_hundred, [ORANGE if r.p_adjusted <= 0.05 else GREY for r in rows])
        axes.axvline(0, color="black", linewidth=0.5)
        axes.set_yticks(range(len(rows)), [row.word for row in rows], parse_math=False)
        axes.invert_yaxis()
        axes.set_xlabel("per 100 tokens: right less wrong traces (95 %)")
    return figure


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def rollouts_figure(groups: Mapping[str, Sequence[Rollouts]]) -> Figure:
    """What forbidding a token changes: at every step, and on average with intervals by group.

    Orange marks are each trace's most critical step, which other continuations chose.

    Args:
        groups: Name to rollouts; at least one group. The first is drawn step by step.
    """
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(PAGE, max(2.4, 0.34 * len(groups) + 0.7)), width_ratios=(1, 1.3)
        )
        steps = next(iter(groups.values()))
        noise = np.random.default_rng(0).uniform(-0.015, 0.015, (2, len(steps)))
        kept, forbidden = (
            np.array([np.mean(getattr(rollouts, arm)) for rollouts in steps])
            for arm in ("kept", "forbidden")
        )
        left.plot([0, 1], [0, 1], color="black", linewidth=0.5)
        left.plot(
            kept + noise[0],
            forbidden + noise[1],
            "o",
            color=BLUE,
            markersize=2.5,
            alpha=0.5,
            markeredgewidth=0,
        )
        left.set_xlabel("success with the token")
        left.set_ylabel("success without it")
        left.set_title(f"{next(iter(groups))}, step by step")
        dots(right, [mean_gain(rollouts) for rollouts in groups.values()], BLUE, shift=-0.13)
        chosen = [critical_gain(rollouts) for rollouts in groups.values()]
        dots(right, chosen, ORANGE, shift=0.13)
        right.axvline(0, color="black", linewidth=0.5)
        right.set_yticks(range(len(groups)), [f"{k} ({len(v)})" for k, v in groups.items()])
        right.set_ylim(len(groups) - 0.5, -0.5)
        right.set_xlabel("success gained by forbidding (95 %)")
        for colour, name in ((BLUE, "mean of steps"), (ORANGE, "most critical step")):
            right.plot([], [], "o-", color=colour, markersize=3, label=name)
        figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def attention_figure(groups: Mapping[str, AttentionTo]) -> Figure:
    """Attention to words over attention to their controls, head by head, one panel per comparison.

    The colour scale is logarithmic: 2 and 1/2 are equally far from 1. Bold numbers are
    significant among all heads of the panel (family-wise, .05).
    """
    with style():
        size = (PAGE, min(6.0, 0.9 + 2.0 * PAGE / 3 / len(groups)))
        figure, panels = plt.subplots(1, len(groups), figsize=size, squeeze=False)
        heads = max(attention.ratio.shape[1] for attention in groups.values())
        logs = [np.log2(attention.ratio.clip(min=1e-6)) for attention in groups.values()]
        most = max(float(np.abs(log).max()) for log in logs) or 1.0
        norm = TwoSlopeNorm(0, -most, most)
        for axes, (name, attention), log in zip(panels[0], groups.items(), logs, strict=True):
            axes.imshow(log, cmap="RdBu_r", norm=norm, aspect="auto", origin="lower")
            if heads <= 8:
                _write_ratios(axes, attention, np.abs(log) > 0.65 * most)
            o = attention.overall
            axes.set_title(f"{name}\noverall {o.mean:.2f} ({o.low:.2f}, {o.high:.2f})")
            axes.set_xlabel("head")
            axes.set_xticks(range(0, attention.ratio.shape[1], max(1, heads // 8)))
            axes.set_yticks(range(0, len(attention.ratio), max(1, len(attention.ratio) // 8)))
        panels[0, 0].set_ylabel("layer")
        ticks = [t for t in (-3, -2, -1, 0, 1, 2, 3) if abs(t) <= most]
        bar = figure.colorbar(ScalarMappable(norm, "RdBu_r"), ax=panels[0].tolist(), ticks=ticks)
        bar.ax.set_yticklabels([f"{2.0**t:g}" for t in ticks])
        bar.set_label("word / control")
    return figure


def _write_ratios(axes: Axes, attention: AttentionTo, dark: Bool[np.ndarray, "layer head"]) -> None:
    """The ratio of each head in its cell, white on dark cells."""
    for (layer, head), ratio in np.ndenumerate(attention.ratio):
        axes.text(
            head,
            layer,
            f"{ratio:.2f}",
            ha="center",
            va="center",
            fontsize=6,
            weight="bold" if attention.p_adjusted[layer, head] <= 0.05 else "normal",
            color="white" if dark[layer, head] else "black",
        )
