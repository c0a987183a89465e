"""How often 95 % intervals hold the truth: computed exactly, not simulated.

Every possible outcome of n problems is weighed by its probability: numbers of right answers, and
numbers of answers that get better, get worse or stay. The score intervals of
`mi_lens.common.intervals` are compared with the percentile bootstrap.

python -m experiments.coverage
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom, multinomial

from mi_lens.common.intervals import estimate_difference, estimate_share
from mi_lens.report.plots.style import BLUE, ORANGE, PAGE, legend_above, save_figure, style

TAILS = np.array([0.025, 0.975])
SIZES = {30: ":", 60: "--", 200: "-"}  # Numbers of problems, and how their curves are drawn.
Coverage = tuple[float, float]  # Of the score interval, and of the bootstrap.


@dataclass(frozen=True)
class Config:
    """Where to write the figure.

    Attributes:
        out: Folder that gets the figure and its numbers.
        points: Number of points of a curve.
    """

    out: Path = Path("figures")
    points: int = 40


@cache
def _share_intervals(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Both kinds of interval (rows: low, high) for every number of right answers (columns)."""
    estimates = [estimate_share([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
    ours = np.array([[e.low for e in estimates], [e.high for e in estimates]], dtype=float)
    counts = np.arange(n + 1)
    return ours, binom.ppf(TAILS[:, None], n, counts / n) / n


def coverage_of_share(n: int, p: float) -> Coverage:
    """How often intervals of the share of right answers hold p, among n problems."""
    likely = binom.pmf(np.arange(n + 1), n, p)
    ours, bootstrap = (
        float(likely[(low <= p) & (p <= high)].sum()) for low, high in _share_intervals(n)
    )
    return ours, bootstrap


@cache
def _difference_intervals(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every number of answers that get better and worse, and both kinds of interval of each."""
    outcomes = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    ours, bootstrap = np.empty((2, len(outcomes))), np.empty((2, len(outcomes)))
    for i, (b, c) in enumerate(outcomes):
        estimate = estimate_difference([1.0] * b + [-1.0] * c + [0.0] * (n - b - c))
        ours[:, i] = estimate.low, estimate.high
        # The sum of n draws from the answers: the n-fold convolution of one draw.
        one = np.zeros(2 * n + 1)
        one[:3] = c / n, (n - b - c) / n, b / n
        summed = np.fft.irfft(np.fft.rfft(one) ** n, 2 * n + 1).clip(min=0)
        bootstrap[:, i] = np.searchsorted(summed.cumsum(), TAILS - 1e-9) / n - 1
    return np.array(outcomes), ours, bootstrap


def coverage_of_difference(n: int, better: float, worse: float) -> Coverage:
    """How often intervals of the paired difference hold `better - worse`, among n problems."""
    outcomes, *intervals = _difference_intervals(n)
    counts = np.column_stack([outcomes, n - outcomes.sum(1)])
    likely = multinomial.pmf(counts, n, [better, worse, 1 - better - worse])
    truth = better - worse
    ours, bootstrap = (
        float(likely[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum())
        for low, high in intervals
    )
    return ours, bootstrap


def main(config: Config) -> None:
    """Draws the coverage of both intervals of a share and of a difference."""
    shares = np.linspace(0.01, 0.99, config.points).tolist()
    gains = np.linspace(0.01, 0.6, config.points).tolist()
    panels = {
        "share": {n: [coverage_of_share(n, p) for p in shares] for n in SIZES},
        "difference": {
            n: [coverage_of_difference(n, gain, 0.0) for gain in gains] for n in (30, 60)
        },
    }
    figure = draw(shares, gains, panels)
    numbers = {
        "command": "python -m experiments.coverage",
        "confidence": 0.95,
        "share of right answers": shares,
        "gain, where no answer gets worse": gains,
        "coverage": {
            name: {
                str(n): {"score": [a for a, _ in rows], "bootstrap": [b for _, b in rows]}
                for n, rows in panel.items()
            }
            for name, panel in panels.items()
        },
    }
    print(save_figure(figure, config.out / "coverage", numbers)[0])


def draw(
    shares: list[float], gains: list[float], panels: dict[str, dict[int, list[Coverage]]]
) -> Figure:
    """One panel for shares, one for differences; a curve per kind of interval and size."""
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
        _draw_panel(left, shares, panels["share"])
        _draw_panel(right, gains, panels["difference"])
        left.set_xlabel("true share of right answers")
        right.set_xlabel("true gain, where no answer gets worse")
        left.set_ylabel("how often the interval holds the truth")
        left.set_ylim(0.3, 1.01)
        legend_above(figure, left, columns=3)
    return figure


def _draw_panel(axes: Axes, places: list[float], curves: dict[int, list[Coverage]]) -> None:
    for column, (name, colour) in enumerate((("score", BLUE), ("bootstrap", ORANGE))):
        for n, rows in curves.items():
            heights = [row[column] for row in rows]
            axes.plot(places, heights, SIZES[n], color=colour, label=f"{name}, {n} problems")
    axes.axhline(0.95, color="black", linewidth=0.5)


if __name__ == "__main__":
    main(tyro.cli(Config))
