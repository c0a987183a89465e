"""Figures of a reasoning model beside its base."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, style
from mi_lens.runs.paired_analyses import PeakComparison


def paired_peaks_figure(comparison: PeakComparison) -> Figure:
    """The reasoner's values against its base's: one panel per quantity, one dot per problem.

    A dot above the diagonal means that the reasoner has more. The cross marks the means; the title
    gives the mean paired difference. Grey panels are in units of MI, which cannot be compared
    between models.
    """
    shown = list(comparison.quantities.values())
    columns = min(5, len(shown))
    lines = -(-len(shown) // columns)
    with style():
        figure, panels = plt.subplots(
            lines, columns, figsize=(PAGE, 1.75 * lines + 0.2), squeeze=False
        )
        for axes, quantity in zip(panels.flat, shown, strict=False):
            colour = GREY if quantity.in_units_of_mi else BLUE
            axes.plot(quantity.base, quantity.reasoner, "o", color=colour, markersize=2, alpha=0.5)
            axes.axline((quantity.base[0], quantity.base[0]), slope=1, color="black", linewidth=0.5)
            axes.plot(
                quantity.base_mean.mean,
                quantity.reasoner_mean.mean,
                "P",
                color=ORANGE,
                markersize=5,
            )
            d = quantity.difference
            interval = "" if d.low is None else f"\n{d.mean:+.2g} ({d.low:+.2g}, {d.high:+.2g})"
            axes.set_title(f"{quantity.name}{interval}", fontsize=6)
            axes.tick_params(labelsize=6)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("base", fontsize=8)
        figure.supylabel("reasoning model", fontsize=8)
    return figure
