"""Figures of two groups of traces: their words and their thoughts."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mi_lens.evaluation.thought_contrast import ThoughtContrast
from mi_lens.evaluation.two_groups import Contrast
from mi_lens.evaluation.word_rates import WordRates
from mi_lens.report.plots.style import BLUE, COLUMN, ORANGE, PAGE, dots, legend_above, style

SHIFT = 0.17  # Half the distance between the two groups on a line.


def word_rates_figure(panels: Mapping[str, WordRates], names: tuple[str, str]) -> Figure:
    """How often two groups write words, one panel per comparison; a star is significant.

    Rates are on a scale that is linear up to 1 per 1,000, and logarithmic beyond.

    Args:
        panels: Title to the words' rates; all panels have the same words.
        names: Names of the two groups.
    """
    words = [row.word for row in next(iter(panels.values())).rows]
    contrasts = {title: [row.per_thousand for row in rates.rows] for title, rates in panels.items()}
    unit = next(iter(panels.values())).unit
    figure = _figure(contrasts, words, names, f"per 1,000 {unit} (95 %)")
    for axes in figure.axes:
        axes.set_xscale("symlog", linthresh=1, linscale=0.6)
        axes.set_xlim(left=-0.07)
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000) if t <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def thoughts_figure(panels: Mapping[str, ThoughtContrast], names: tuple[str, str]) -> Figure:
    """Thoughts per trace of two groups by class, one panel per comparison; a star is significant.

    Args:
        panels: Title to the comparison.
        names: Names of the two groups.
    """
    classes = [*next(iter(panels.values())).classes]
    contrasts = {title: [*found.classes.values()] for title, found in panels.items()}
    return _figure(contrasts, classes, names, "thoughts per trace (95 %)")


def _figure(
    panels: Mapping[str, Sequence[Contrast]],
    lines: Sequence[str],
    names: tuple[str, str],
    label: str,
) -> Figure:
    width = COLUMN * 1.2 if len(panels) == 1 else PAGE
    with style():
        figure, row = plt.subplots(
            1,
            len(panels),
            figsize=(width, 0.2 * len(lines) + 1.0),
            squeeze=False,
        )
        for axes, (title, contrasts) in zip(row[0], panels.items(), strict=True):
            firsts = [contrast.first for contrast in contrasts]
            seconds = [contrast.second for contrast in contrasts]
            dots(axes, firsts, BLUE, shift=-SHIFT, label=names[0])
            dots(axes, seconds, ORANGE, shift=SHIFT, markers="D", label=names[1])
            stars = ["*" if contrast.p_adjusted <= 0.05 else "" for contrast in contrasts]
            shown = [f"{line}{star}" for line, star in zip(lines, stars, strict=True)]
            axes.set_yticks(range(len(lines)), shown, parse_math=False)
            axes.set_ylim(len(lines) - 0.4, -0.6)
            axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
            if title:
                axes.set_title(title)
        figure.supxlabel(label, fontsize=8)
        legend_above(figure, row[0, 0])
    return figure
