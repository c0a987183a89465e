"""Figures of sweeps: accuracy along the grid, by layer, by strength or by whatever it varies."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.report.plots.style import COLOURS, GREY, PAGE, bounds, curve, style
from mi_lens.runs.sweep_spec import Point


@dataclass(frozen=True)
class Curves:
    """The accuracy of a family of conditions, and of the condition that they are compared with.

    Attributes:
        family: The name of the conditions before the grid's values were put in, "rr{layer}".
        names: The names in the grid that have several values in this family.
        values: For each condition, its value of each of these names.
        accuracy: For each condition, its accuracy with an interval over problems.
        against: Name of the condition that they are compared with.
        baseline: The accuracy of this condition.
    """

    family: str
    names: tuple[str, ...]
    values: tuple[dict[str, Any], ...]
    accuracy: tuple[Estimate, ...]
    against: str
    baseline: Estimate


def sweep_curves(
    evaluation: Evaluation, points: Sequence[Point], against: str | None = None
) -> list[Curves]:
    """The curves of a sweep, one for each family of conditions with several values in the grid.

    Args:
        evaluation: The results of one model.
        points: The conditions of the sweep and their places on its grid.
        against: Name of a condition; None takes the first.
    """
    base = against or evaluation.names[0]
    results = set(evaluation.names)
    families: dict[str, list[Point]] = {}
    for point in points:
        if point.values and point.condition.name in results:
            families.setdefault(point.family, []).append(point)
    curves = []
    for family, members in families.items():
        names = tuple(
            name
            for name in members[0].values
            if len({str(point.values[name]) for point in members}) > 1
        )
        if names:
            curves.append(
                Curves(
                    family,
                    names,
                    tuple({name: point.values[name] for name in names} for point in members),
                    tuple(evaluation.arm(point.condition.name).accuracy() for point in members),
                    base,
                    evaluation.arm(base).accuracy(),
                )
            )
    return curves


def curves_figure(curves: Curves) -> Figure:
    """Accuracy along each name of the grid: a panel for each, a line for the others' values.

    The condition that the family is compared with is drawn in grey.
    """
    panels = len(curves.names)
    with style():
        figure, rows = plt.subplots(
            1, panels, figsize=(min(PAGE, 3.4 * panels), 2.4), sharey=True, squeeze=False
        )
        for name, axes in zip(curves.names, rows[0], strict=True):
            _panel(axes, curves, name)
        rows[0][0].set_ylabel("accuracy (%, 95 %)")
        rows[0][0].set_title(curves.family, parse_math=False)
    return figure


def _panel(axes: Axes, curves: Curves, name: str) -> None:
    """Draws accuracy along one name of the grid."""
    values = list(dict.fromkeys(each[name] for each in curves.values))
    numbers = all(type(value) in (int, float) for value in values)
    place = {value: float(value) if numbers else float(i) for i, value in enumerate(values)}
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for each, accuracy in zip(curves.values, curves.accuracy, strict=True):
        others = ", ".join(f"{other} {v}" for other, v in each.items() if other != name)
        lines.setdefault(others, []).append((place[each[name]], accuracy))
    _baseline(axes, curves, list(place.values()))
    apart = 0.1 * min(b - a for a, b in pairwise(sorted(place.values()))) / len(lines) ** 0.5
    for i, (label, line) in enumerate(lines.items()):
        shift = apart * (i - (len(lines) - 1) / 2)  # Equal lines would hide each other.
        _line(axes, sorted(line, key=lambda at: at[0]), shift, _colour(i, len(lines)), label)
    if numbers and all(type(value) is int for value in values):
        axes.set_xticks(sorted(values))
    elif not numbers:
        axes.set_xticks(range(len(values)), [str(value)[-24:] for value in values])
    axes.set_xlabel(name)
    axes.legend()


def _line(
    axes: Axes, line: Sequence[tuple[float, Estimate]], shift: float, colour: Any, label: str
) -> None:
    """Draws a line whose points carry their intervals as bars."""
    x = [at + shift for at, _ in line]
    mean, low, high = bounds([estimate for _, estimate in line], 100)
    axes.plot(x, mean, marker="o", markersize=3, color=colour, label=label or None)
    axes.vlines(x, low, high, color=colour, linewidth=0.7)


def _baseline(axes: Axes, curves: Curves, x: Sequence[float]) -> None:
    """Draws the condition that the family is compared with, across the panel."""
    ends = [min(x), max(x)]
    curve(axes, ends, [curves.baseline] * 2, GREY, curves.against, scale=100)


def _colour(place: int, count: int) -> Any:
    """The colour of a line; many lines get shades in order."""
    distinct = [colour for colour in COLOURS if colour != GREY]
    if count <= len(distinct):
        return distinct[place]
    return matplotlib.colormaps["viridis"](place / (count - 1))
