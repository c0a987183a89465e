"""Figures of conditions compared in pairs."""

from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mi_lens.evaluation.comparison import Comparison
from mi_lens.report.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    PAGE,
    dots,
    style,
)


def paired_figure(comparisons: Sequence[Comparison], controls: Collection[str] = ()) -> Figure:
    """How conditions change accuracy and length, paired by problem; one line per condition.

    Args:
        comparisons: Comparisons with one and the same condition; at least one.
        controls: Names of the conditions that are controls; they are drawn as grey squares.
    """
    if not comparisons:
        raise ValueError("no comparisons to draw; expected at least one")
    names = [comparison.name for comparison in comparisons]
    is_control = [name in controls for name in names]
    with style():
        figure, panels = plt.subplots(
            1, 2, figsize=(PAGE, 0.6 + 0.15 * len(names)), sharey=True, width_ratios=(3, 2)
        )
        shown = (
            ("difference", 100.0, BLUE, "accuracy less baseline (points, 95 %)"),
            ("tokens", 1.0, ORANGE, "tokens less baseline (95 %)"),
        )
        for axes, (field, scale, colour, title) in zip(panels, shown, strict=True):
            shades = [GREY if control else colour for control in is_control]
            estimates = [getattr(comparison, field) for comparison in comparisons]
            markers = ["s" if control else "o" for control in is_control]
            dots(axes, estimates, shades, scale=scale, markers=markers)
            axes.axvline(0, color="black", linewidth=0.5)
            axes.set_xlabel(title)
        panels[0].set_yticks(range(len(names)), names, parse_math=False)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure
