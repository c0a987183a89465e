"""The one style of every figure: sizes, colours that the colour-blind can tell apart, intervals."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_lens.common.files import replacing, write_json
from mi_lens.common.statistics import Estimate

COLUMN, PAGE = 3.3, 6.8  # Widths in inches: one and two columns of a paper.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # After Okabe and Ito.
SKY, PURPLE = "#56B4E9", "#CC79A7"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)
CLASS_COLOURS = {"execution": BLUE, "reflection": ORANGE, "transition": GREEN}
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 200,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.0,
    # Text as outlines: the picture is the same whatever fonts a machine has.
    "svg.fonttype": "path",
    "svg.hashsalt": "mi_lens",
}
MI_LABEL = r"MI$(h_t; h_y)$"
Theme = Literal["light", "dark"]
PAPERS, INKS = {"light": "#ffffff", "dark": "#14171a"}, {"light": "#000000", "dark": "#eef1f4"}


def paper(theme: Theme) -> str:
    """The colour behind a figure.

    Raises:
        ValueError: If the theme is neither light nor dark.
    """
    if theme not in get_args(Theme):
        raise ValueError(f"theme={theme!r}: expected one of {get_args(Theme)}")
    return PAPERS[theme]


def _colours(theme: Theme) -> dict[Any, Any]:
    drawn = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), paper(theme)),
        **dict.fromkeys(drawn, INKS[theme]),
    }


@contextmanager
def style(theme: Theme = "light") -> Iterator[None]:
    """Applies the style of the figures here; use it for figures of your own too."""
    with plt.rc_context(STYLE | _colours(theme)):
        yield
        interactive = plt.isinteractive()
    # A notebook's backend becomes interactive with its first figure. The end of rc_context would
    # undo that, and later figures would not show.
    matplotlib.interactive(interactive)


def dots(
    axes: Axes,
    estimates: Sequence[Estimate],
    colours: Sequence[str] | str,
    *,
    scale: int | float = 1.0,
    shift: float = 0.0,
    markers: Sequence[str] | str = "o",
    label: str | None = None,
) -> None:
    """Draws estimates with their intervals, one per line; line i is at y = i.

    Args:
        axes: Where to draw.
        estimates: One per line; a line without a mean stays empty.
        colours: One per line, or one for all.
        scale: Factor for the values, such as 100 for points.
        shift: Added to y, so that several series can stand side by side.
        markers: Markers of the means; one per line, or one for all.
        label: The series' name in the legend.
    """
    shades, shapes = (
        [each] * len(estimates) if isinstance(each, str) else each for each in (colours, markers)
    )
    lines = zip(estimates, shades, shapes, strict=True)
    for y, (estimate, colour, shape) in enumerate(lines):
        if estimate.mean is not None:
            axes.plot(
                scale * estimate.mean, y + shift, shape, color=colour, markersize=3, label=label
            )
            label = None
        if estimate.low is not None and estimate.high is not None:
            ends = [scale * estimate.low, scale * estimate.high]
            axes.plot(ends, [y + shift] * 2, color=colour, linewidth=1)


def bounds(
    estimates: Sequence[Estimate], scale: int | float = 1.0
) -> tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"], Float[np.ndarray, "_"]]:
    """Means, low ends and high ends of estimates, scaled; NaN, which is not drawn, for none."""
    mean, low, high = (
        scale * np.array([getattr(estimate, field) for estimate in estimates], dtype=float)
        for field in ("mean", "low", "high")
    )
    return mean, low, high


def curve(
    axes: Axes,
    x: Sequence[float] | Sequence[int],
    estimates: Sequence[Estimate],
    colour: str,
    label: str | None = None,
    *,
    scale: int | float = 1.0,
    marker: str = "",
) -> None:
    """Draws estimates along x as a line, with their intervals as a band around it."""
    mean, low, high = bounds(estimates, scale)
    axes.plot(x, mean, marker=marker, markersize=3, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def printable(text: str) -> str:
    """Replaces characters that no font draws by U+FFFD; newlines stay."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def legend_above(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Puts one panel's legend above all panels, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=columns or len(names))


def save_figure(figure: Figure, stem: str | Path, numbers: Mapping[str, Any]) -> list[Path]:
    """Writes a figure as PNG and SVG with its numbers beside it as JSON, and closes it.

    Args:
        figure: The figure.
        stem: Path without a suffix.
        numbers: The numbers that were drawn.

    Returns:
        The three paths.
    """
    paths = [Path(f"{stem}.{suffix}") for suffix in ("png", "svg", "json")]
    for path in paths[:2]:
        with replacing(path) as temporary, style():
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    write_json(paths[2], dict(numbers))
    plt.close(figure)
    return paths
