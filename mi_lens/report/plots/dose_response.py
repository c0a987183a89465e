"""Figures of dose responses: a vector's curve among those of random directions."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_lens.evaluation.dose_response import DoseResponse, Effect
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, bounds, legend_above, style

UNITS = {"vector": "alpha (lengths of the vector)", "state": "alpha (lengths of the state)"}


def dose_response_figure(response: DoseResponse) -> Figure:
    """Change of accuracy and of tokens along alpha; each random direction is a thin grey line.

    The vector's points carry intervals over problems. The band is the mean over random directions,
    with its interval over directions and problems.
    """
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.6))
        shown = (
            (response.accuracy, 100.0, BLUE, "accuracy less no steering (points)"),
            (response.tokens, 1.0, ORANGE, "tokens less no steering"),
        )
        for axes, (effects, scale, colour, label) in zip(panels, shown, strict=True):
            _panel(axes, response.alphas, effects, scale, colour)
            axes.set_xlabel(UNITS[response.unit])
            axes.set_ylabel(label)
        legend_above(figure, panels[0])
    return figure


def _panel(
    axes: Axes,
    alphas: tuple[float, ...],
    effects: tuple[Effect, ...],
    scale: float,
    colour: str,
) -> None:
    """Draws an outcome's curves, all of which pass through no change at no strength."""
    place = int(np.searchsorted(alphas, 0.0))
    x = np.insert(np.array(alphas), place, 0.0)
    axes.axhline(0, color="black", linewidth=0.5)
    by_direction = np.array([effect.directions for effect in effects]).T
    for i, direction in enumerate(by_direction):
        y = np.insert(scale * direction, place, 0.0)
        label = "a random direction" if i == 0 else None
        axes.plot(x, y, color=GREY, linewidth=0.4, alpha=0.5, label=label)
    mean, low, high = (
        np.insert(values, place, 0.0) for values in bounds([e.random for e in effects], scale)
    )
    axes.plot(x, mean, color=GREY, linewidth=1.2, label="their mean (95 %)")
    axes.fill_between(x, low, high, color=GREY, alpha=0.3, linewidth=0)
    mean, low, high = bounds([effect.vector for effect in effects], scale)
    axes.plot(x, np.insert(mean, place, 0.0), color=colour, marker="o", markersize=3)
    axes.vlines(np.array(alphas), low, high, color=colour, linewidth=1.0)
    axes.plot([], [], color="black", marker="o", markersize=3, label="the vector (95 %)")
