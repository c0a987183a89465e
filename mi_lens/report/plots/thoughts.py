"""Figures of thoughts: their gains, their importance, directions that tell classes apart."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from mi_lens.common.statistics import Estimate, mean_interval
from mi_lens.information.across_problems.thought_gains import ThoughtGains, gains_by_class
from mi_lens.report.plots.peaks import resampled
from mi_lens.report.plots.style import (
    BLUE,
    COLOURS,
    GREY,
    ORANGE,
    PAGE,
    dots,
    legend_above,
    style,
)
from mi_lens.steering.reading_vectors import MEANS, ReadingVectors
from mi_lens.traces.matched_thoughts import Balance, PairedContrast
from mi_lens.traces.thoughts import THOUGHT_CLASSES


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
        for i, (name, traces) in enumerate(groups.items()):
            values = np.stack([resampled([2.0**-b for b in trace.bits]) for trace in traces])
            left.plot(x, values.mean(0), color=COLOURS[i], label=f"{name} ({len(traces)})")
            if len(traces) > 1:
                low, high = mean_interval(values)
                left.fill_between(x, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
            classes = gains_by_class(traces)
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


def reading_figure(vectors: Mapping[str, ReadingVectors]) -> Figure:
    """Reading vectors beside SEAL's at each hook name: held-out AUC, and cosine with SEAL's."""
    names = list(next(iter(vectors.values())).auc)
    x = np.arange(len(vectors))
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5), width_ratios=(1.4, 1))
        for i, name in enumerate(names):
            auc = [hook.auc[name] for hook in vectors.values()]
            place = x + 0.1 * (i - 1)
            left.plot(place, [a.auc for a in auc], "o-", color=COLOURS[i], markersize=3, label=name)
            left.vlines(place, [a.low for a in auc], [a.high for a in auc], color=COLOURS[i])
            if name != MEANS:
                cosine = np.array([hook.cosine[name] for hook in vectors.values()], dtype=float)
                right.plot(x, cosine, "o-", color=COLOURS[i], markersize=3)
        left.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
        left.set_ylabel("held-out AUC (95 %)")
        right.set_ylabel("cosine with mean difference")
        right.set_ylim(-0.05, 1.05)
        for axes in (left, right):
            axes.set_xticks(x, [_short(name) for name in vectors])
            axes.set_xlabel("hook (layer, site)")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _short(hook_name: str) -> str:
    """As "3 post" for "blocks.3.hook_resid_post"; other names as they are."""
    parts = hook_name.split(".")
    if len(parts) == 3 and parts[2].startswith("hook_resid_"):
        return f"{parts[1]} {parts[2].removeprefix('hook_resid_')}"
    return hook_name


def resampled_figure(
    contrasts: Mapping[str, PairedContrast],
    balance: Mapping[str, Balance],
    classes: Mapping[str, tuple[Estimate, Estimate]],
    alike: float = 0.25,
) -> Figure:
    """Importance at peaks and at controls; how alike both are; two measures by class of thoughts.

    Args:
        contrasts: Name to importance in bits at peaks, beside that at controls.
        balance: Name to standardised differences of peaks and controls.
        classes: Name to the True-Thinking Score, and to the importance in bits.
        alike: The largest standardised difference that counts as alike, which is shaded.
    """
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.3), width_ratios=(1.1, 1, 1)
        )
        in_bits = list(contrasts.values())
        dots(left, [c.peaks for c in in_bits], ORANGE, shift=-0.2, label="at peaks")
        dots(left, [c.controls for c in in_bits], BLUE, label="matched")
        dots(left, [c.difference for c in in_bits], "black", shift=0.2, label="difference")
        left.set_yticks(range(len(in_bits)), list(contrasts))
        left.set_ylim(len(in_bits) - 0.5, -0.5)
        left.axvline(0, color="black", linewidth=0.5)
        left.set_xlabel("importance in bits (95 %)")
        legend_above(figure, left)
        rows = {k: b for k, b in balance.items() if b.before is not None}
        for shade, when in ((GREY, "before"), (BLUE, "after")):
            middle.plot(
                [np.nan if (x := getattr(b, when)) is None else x for b in rows.values()],
                range(len(rows)),
                "o",
                color=shade,
                markersize=3,
                label=f"{when} matching",
            )
        middle.axvspan(-alike, alike, color=GREY, alpha=0.15, linewidth=0)
        middle.set_yticks(range(len(rows)), list(rows))
        middle.invert_yaxis()
        middle.set_xlabel("standardised difference")
        dots(
            right,
            [score for score, _ in classes.values()],
            GREY,
            shift=-0.12,
            label="true thinking",
        )
        dots(right, [bits for _, bits in classes.values()], ORANGE, shift=0.12, label="importance")
        right.set_yticks(range(len(classes)), list(classes))
        right.set_ylim(len(classes) - 0.5, -0.5)
        right.axvline(0, color="black", linewidth=0.5)
        right.set_xlabel("score; bits")
        right.legend(loc="best")
    return figure
