"""The map of a trace: one row per hook name, one column per step, peaks as marks."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from mi_lens.report.plots.map_values import (
    HIGHEST,
    LayerMap,
    Measure,
    Peaks,
    layer_map,
    map_of_analysis,
    rows_of,
)
from mi_lens.report.plots.style import (
    BLUE,
    GREEN,
    ORANGE,
    PAGE,
    SKY,
    Theme,
    paper,
    printable,
    style,
)
from mi_lens.runs.analysis import Analysis
from mi_lens.traces.trace import Trace

COLUMNS = 1000  # More columns than this cannot be told apart.
TOKEN_WIDTH, ROW_HEIGHT = 0.115, 0.17  # Inches.
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
MARKS = 12  # Marks of peaks per inch.
RAW = {"light": ORANGE, "dark": "#ff9d5c"}
BLUES = {"light": (BLUE, "#00263d"), "dark": (SKY, "#dff2ff")}
ORANGES = {"light": (ORANGE, "#5c2800"), "dark": ("#F0A070", "#ffe3d1")}
SPECIFIC = {"light": GREEN, "dark": "#3fe0b0"}


def plot_map(
    values: Analysis | Mapping[str, ArrayLike] | ArrayLike,
    trace: Trace | None = None,
    *,
    measure: Measure = "mi",
    hook_names: Sequence[str] | None = None,
    peaks: Peaks = None,
    tokens: Sequence[str] | None = None,
    normalise: bool = False,
    label: str | None = None,
    theme: Theme = "light",
    width: int | float = PAGE,
) -> Figure:
    """Layers against steps: where on a trace, and at which depth, a value is high.

    The lowest row is the first hook name. Values above the 98 % quantile have the deepest colour;
    values with negative ones among them are blue above zero and orange below. Peaks are dots; where
    dots would overlap, the highest peak has one. As many tokens as are readable stand below the
    map, those at peaks first; step numbers stand above it. In a trace of more than 1,000 steps, a
    column shows several steps: of each row, the value that is farthest from zero.

    Args:
        values: An analysis, with one of its traces; a mapping from hook name to one value per step,
            each of shape (step,), such as the results of `answer_probability` or
            `attention_by_step`; or an array of shape (hook, step) with `hook_names`, such as the
            result of `mi_trajectories`.
        trace: The trace, for an analysis only.
        measure: What to show of an analysis: "mi", the raw trajectories; "specific", their specific
            part, in standard deviations of other problems' answers (`mismatched_gold`); "entropy"
            or "surprisal" of the emitted token in bits, which have one row.
        hook_names: The rows to show, the lowest first; None shows all. An array needs one name per
            row.
        peaks: Steps to mark: a rule, which is applied to every row; or a mapping from hook name to
            steps. None marks the peaks of an analysis (significant ones for "specific"), and no
            others.
        tokens: One text per step, as `trace.token_strings(model.tokenizer)`; an analysis has them.
        normalise: Whether every row gets a scale of its own, so that layers of different size can
            be compared.
        label: What the values are, for the scale.
        theme: "light" or "dark".
        width: Width of the figure in inches.

    Returns:
        A figure. In a notebook, end the line with a semicolon to see it once.

    Raises:
        ValueError: If the shapes, hook names, peaks or tokens do not fit together; if a value is
            not finite; or if the analysis lacks what is asked for. The message says which.
    """
    if isinstance(values, Analysis):
        shown = map_of_analysis(values, trace, measure, hook_names, peaks, tokens, label)
    elif trace is not None:
        raise ValueError(
            f"trace {trace.id}: a trace goes with an analysis; give tokens="
            "trace.token_strings(model.tokenizer) with values of your own"
        )
    else:
        rows = rows_of(values, hook_names)
        shown = layer_map(rows, peaks, tokens, label or "")
    shown = shown.normalised() if normalise else shown
    height = 1.25 + ROW_HEIGHT * max(4, min(len(shown.rows), 40))
    with style(theme):
        figure, axes = plt.subplots(figsize=(width, height))
        _draw(figure, axes, shown, theme, width)
    return figure


def _draw(figure: Figure, axes: Axes, shown: LayerMap, theme: Theme, width: int | float) -> None:
    rows, steps = shown.values.shape
    top = float(np.quantile(np.abs(shown.values), HIGHEST)) or 1.0
    low = -top if shown.signed else float(shown.values.min())
    image = axes.imshow(
        thinned(shown.values, COLUMNS),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(-0.5, steps - 0.5, -0.5, rows - 0.5),
        cmap=_diverging(theme) if shown.signed else rising(theme),
        vmin=low,
        vmax=max(top, low + 1e-12),
    )
    _mark_peaks(axes, shown, theme, width)
    bar = figure.colorbar(
        image,
        ax=axes,
        extend="both" if shown.signed else "max",
        extendfrac=0.05,
        pad=0.01,
        fraction=0.1,
        aspect=8 * figure.get_figheight(),
    )
    bar.outline.set_linewidth(0.5)
    axes.set_title("\n".join(wrap(shown.label, int(14 * width))), parse_math="$" in shown.label)
    _name_rows(axes, shown.rows)
    _name_steps(axes, shown, width)


def _mark_peaks(axes: Axes, shown: LayerMap, theme: Theme, width: int | float) -> None:
    steps = shown.values.shape[1]
    room = steps / (width * MARKS)  # Steps that a mark covers.
    for row, peaks in enumerate(shown.peaks):
        highest: dict[int, int] = {}
        for peak in peaks.tolist():
            place = int(peak / room) if room > 1 else peak
            if shown.values[row, peak] > shown.values[row, highest.setdefault(place, peak)]:
                highest[place] = peak
        axes.plot(
            list(highest.values()),
            [row] * len(highest),
            "o",
            color=(SPECIFIC if shown.signed else RAW)[theme],
            markersize=2.6,
            markeredgecolor=paper(theme),
            markeredgewidth=0.4,
        )


def thinned(values: Float[np.ndarray, "row step"], columns: int) -> Float[np.ndarray, "row column"]:
    """At most so many columns of neighbouring steps, each with its value farthest from zero."""
    steps = values.shape[1]
    if steps <= columns:
        return values
    edges = np.linspace(0, steps, columns + 1).astype(int)
    parts = [values[:, a:b] for a, b in pairwise(edges)]
    farthest = [np.abs(part).argmax(1)[:, None] for part in parts]
    return np.concatenate(
        [np.take_along_axis(part, at, 1) for part, at in zip(parts, farthest, strict=True)], axis=1
    )


def rising(theme: Theme) -> Colormap:
    """From the paper's colour to ever stronger blue."""
    return LinearSegmentedColormap.from_list("layers", [paper(theme), *BLUES[theme]])


def _diverging(theme: Theme) -> Colormap:
    """The same above zero, and to ever stronger orange below."""
    colours = [*ORANGES[theme][::-1], paper(theme), *BLUES[theme]]
    return LinearSegmentedColormap.from_list("layers", colours)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    blocks = [BLOCK.fullmatch(name) for name in names]
    hooks = {block and block[2] for block in blocks}
    if len(names) > 1 and len(hooks) == 1 and None not in hooks:
        axes.set_ylabel("block")
        texts = [block[1] for block in blocks if block]
    else:
        texts = [name.removeprefix("blocks.") for name in names]
    every = -(-len(names) // 20)
    axes.set_yticks(range(0, len(names), every), texts[::every], parse_math=False)


def _name_steps(axes: Axes, shown: LayerMap, width: int | float) -> None:
    above = axes.secondary_xaxis("top")
    above.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    above.set_xlabel("step $t$ (generated tokens)")
    if not shown.tokens:
        axes.set_xticks([])
        return
    steps = readable(shown, int((width - 1.6) / TOKEN_WIDTH))
    texts = [_text(shown.tokens[step]) for step in steps]
    axes.set_xticks(steps, texts, rotation=90, fontsize=6, parse_math=False)


def readable(shown: LayerMap, most: int) -> list[int]:
    """The steps whose tokens have room: at most so many, well apart, first those at peaks.

    Peaks of more rows come before peaks of fewer.
    """
    steps = len(shown.tokens)
    gap = -(-steps // most)
    rows_at = np.zeros(steps, dtype=int)
    for peaks in shown.peaks:
        rows_at[peaks] += 1
    taken = np.zeros(steps, dtype=bool)
    chosen: list[int] = []
    for step in np.argsort(-rows_at, kind="stable").tolist():
        if not taken[step]:
            chosen.append(step)
            taken[max(0, step - gap + 1) : step + gap] = True
    return sorted(chosen)


def _text(token: str) -> str:
    """A token as a label of at most 12 characters, with its line breaks as a sign."""
    text = printable(token).replace("\n", "↵").strip() or "␣"
    return text if len(text) <= 12 else f"{text[:11]}…"
