"""Figures of a reasoning model beside its base, and of what is read from right and wrong traces."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from mi_lens.common.statistics import Estimate, mean_interval
from mi_lens.evaluation.critical_tokens import Rollouts, critical_gain, mean_gain
from mi_lens.evaluation.word_contrast import WordContrast
from mi_lens.information.across_problems.thought_gains import ThoughtGains, gains_by_class
from mi_lens.plots import resampled
from mi_lens.runs.paired_analyses import PeakComparison
from mi_lens.states.attention_to_words import AttentionTo
from mi_lens.steering.reading_vectors import MEANS, ReadingVectors
from mi_lens.style import BLUE, COLOURS, COLUMN, GREY, ORANGE, PAGE, dots, style
from mi_lens.traces.thoughts import THOUGHT_CLASSES


def paired_peaks_figure(comparison: PeakComparison) -> Figure:
    """Every quantity of every problem, reasoner against base, with the paired difference.

    Above the diagonal the reasoner has more. Grey panels are in units of MI, which do not compare
    between models.
    """
    shown = list(comparison.quantities.values())
    columns = min(5, len(shown))
    lines = -(-len(shown) // columns)
    with style():
        figure, panels = plt.subplots(
            lines, columns, figsize=(PAGE, 1.75 * lines + 0.2), squeeze=False
        )
        for axes, one in zip(panels.flat, shown, strict=False):
            colour = GREY if one.in_units_of_mi else BLUE
            axes.plot(one.base, one.reasoner, "o", color=colour, markersize=2, alpha=0.5)
            axes.axline((one.base[0], one.base[0]), slope=1, color="black", linewidth=0.5)
            axes.plot(one.base_mean.mean, one.reasoner_mean.mean, "P", color=ORANGE, markersize=5)
            d = one.difference
            interval = "" if d.low is None else f"\n{d.mean:+.2g} ({d.low:+.2g}, {d.high:+.2g})"
            axes.set_title(f"{one.name}{interval}", fontsize=6)
            axes.tick_params(labelsize=6)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("base", fontsize=8)
        figure.supylabel("reasoning model", fontsize=8)
    return figure


def words_figure(contrast: WordContrast, top: int = 16) -> Figure:
    """The words of least p-value: rate in right traces less rate in wrong ones.

    Orange where the difference is significant among all words (family-wise, .05).
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
    """What forbidding a token changes: every step, and means by group with intervals.

    Orange marks are each trace's most critical step, chosen by other continuations.

    Args:
        groups: Name to rollouts, not empty; the first is drawn step by step.
    """
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(PAGE, max(2.4, 0.34 * len(groups) + 0.7)), width_ratios=(1, 1.3)
        )
        steps = next(iter(groups.values()))
        noise = np.random.default_rng(0).uniform(-0.015, 0.015, (2, len(steps)))
        kept, forbidden = (
            np.array([np.mean(getattr(one, arm)) for one in steps]) for arm in ("kept", "forbidden")
        )
        left.plot([0, 1], [0, 1], color="black", linewidth=0.5)
        left.plot(
            kept + noise[0], forbidden + noise[1], "o", color=BLUE, markersize=2.5, alpha=0.5,
            markeredgewidth=0,
        )  # fmt: skip
        left.set_xlabel("success with the token")
        left.set_ylabel("success without it")
        left.set_title(f"{next(iter(groups))}, step by step")
        dots(right, [mean_gain(some) for some in groups.values()], BLUE, shift=-0.13)
        chosen = [critical_gain(some) for some in groups.values()]
        dots(right, chosen, ORANGE, shift=0.13)
        right.axvline(0, color="black", linewidth=0.5)
        right.set_yticks(range(len(groups)), [f"{k} ({len(v)})" for k, v in groups.items()])
        right.set_ylim(len(groups) - 0.5, -0.5)
        right.set_xlabel("success gained by forbidding (95 %)")
        for colour, name in ((BLUE, "mean of steps"), (ORANGE, "most critical step")):
            right.plot([], [], "o-", color=colour, markersize=3, label=name)
        figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def gains_figure(groups: Mapping[str, Sequence[ThoughtGains]]) -> Figure:
    """Probability of the gold answer along the trace, and what a thought of each class adds.

    Args:
        groups: Name to traces, such as right and wrong ones; at most four.
    """
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.4), width_ratios=(1.3, 1, 1)
        )
        x = np.linspace(0, 1, 50)
        for i, (name, found) in enumerate(groups.items()):
            values = np.stack([resampled([2.0**-b for b in one.bits]) for one in found])
            left.plot(x, values.mean(0), color=COLOURS[i], label=f"{name} ({len(found)})")
            if len(found) > 1:
                low, high = mean_interval(values)
                left.fill_between(x, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
            classes = gains_by_class(found)
            shift = 0.16 * (i - (len(groups) - 1) / 2)
            for axes, field in ((middle, "bits"), (right, "probability")):
                rows = [getattr(classes[c], field) for c in THOUGHT_CLASSES]
                dots(axes, rows, COLOURS[i], shift=shift)
        left.set_xlabel("cut, from no thought to the last")
        left.set_ylabel("P(gold answer) if asked there")
        left.set_ylim(-0.02, 1.02)
        for axes, label in ((middle, "bits"), (right, "probability")):
            axes.axvline(0, color="black", linewidth=0.5)
            axes.set_xlabel(f"gain of a thought\n({label}, 95 %)")
            axes.set_yticks(range(3), THOUGHT_CLASSES if axes is middle else [""] * 3)
            axes.set_ylim(2.5, -0.5)
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper center", ncols=len(groups)
        )
    return figure


def attention_figure(groups: Mapping[str, AttentionTo]) -> Figure:
    """Attention to words over attention to their controls, head by head, a panel a comparison.

    The colour is the logarithm, so that twice and half are as far from 1. Bold numbers are
    significant among all heads of the panel (family-wise, .05).
    """
    with style():
        heads = max(one.ratio.shape[1] for one in groups.values())
        figure, panels = plt.subplots(
            1, len(groups), figsize=(PAGE, min(6.0, 0.9 + 2.0 * PAGE / 3 / len(groups))),
            squeeze=False,
        )  # fmt: skip
        logs = [np.log2(one.ratio.clip(min=1e-6)) for one in groups.values()]
        most = max(float(np.abs(some).max()) for some in logs) or 1.0
        norm = TwoSlopeNorm(0, -most, most)
        for axes, (name, one), log in zip(panels[0], groups.items(), logs, strict=True):
            axes.imshow(log, cmap="RdBu_r", norm=norm, aspect="auto", origin="lower")
            for (layer, head), ratio in np.ndenumerate(
                one.ratio if heads <= 8 else np.empty((0, 0))
            ):
                axes.text(
                    head, layer, f"{ratio:.2f}", ha="center", va="center", fontsize=6,
                    weight="bold" if one.p_adjusted[layer, head] <= 0.05 else "normal",
                    color="white" if abs(log[layer, head]) > 0.65 * most else "black",
                )  # fmt: skip
            o = one.overall
            axes.set_title(f"{name}\noverall {o.mean:.2f} ({o.low:.2f}, {o.high:.2f})")
            axes.set_xlabel("head")
            axes.set_xticks(range(0, one.ratio.shape[1], max(1, heads // 8)))
            axes.set_yticks(range(0, len(one.ratio), max(1, len(one.ratio) // 8)))
        panels[0, 0].set_ylabel("layer")
        ticks = [t for t in (-3, -2, -1, 0, 1, 2, 3) if abs(t) <= most]
        bar = figure.colorbar(ScalarMappable(norm, "RdBu_r"), ax=panels[0].tolist(), ticks=ticks)
        bar.ax.set_yticklabels([f"{2.0**t:g}" for t in ticks])
        bar.set_label("word / control")
    return figure


def reading_figure(found: Mapping[str, ReadingVectors]) -> Figure:
    """Reading vectors beside SEAL's, hook by hook: held-out AUC, and cosine with SEAL's."""
    names = list(next(iter(found.values())).auc)
    x = np.arange(len(found))
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5), width_ratios=(1.4, 1))
        for i, name in enumerate(names):
            auc = [one.auc[name] for one in found.values()]
            place = x + 0.1 * (i - 1)
            left.plot(place, [a.auc for a in auc], "o-", color=COLOURS[i], markersize=3, label=name)
            left.vlines(place, [a.low for a in auc], [a.high for a in auc], color=COLOURS[i])
            if name != MEANS:
                cosine = np.array([one.cosine[name] for one in found.values()], dtype=float)
                right.plot(x, cosine, "o-", color=COLOURS[i], markersize=3)
        left.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
        left.set_ylabel("held-out AUC (95 %)")
        right.set_ylabel("cosine with mean difference")
        right.set_ylim(-0.05, 1.05)
        for axes in (left, right):
            axes.set_xticks(x, [_short(name) for name in found])
            axes.set_xlabel("hook (layer, site)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _short(hook_name: str) -> str:
    """As "3 post" for "blocks.3.hook_resid_post"; other names as they are."""
    parts = hook_name.split(".")
    if len(parts) == 3 and parts[2].startswith("hook_resid_"):
        return f"{parts[1]} {parts[2].removeprefix('hook_resid_')}"
    return hook_name
