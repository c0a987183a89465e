"""The panels of `trace_axis`: each draws one kind of measurement along the steps of a trace."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from mi_lens.common.html import one_line
from mi_lens.evaluation.along_trace import Effect, belief_lines
from mi_lens.information.lenses.answer_lens import AnswerLens
from mi_lens.information.per_trace.belief import Belief
from mi_lens.information.per_trace.peak_rules import PeakRule
from mi_lens.report.plots.layer_map import BLOCK, COLUMNS, rising, thinned
from mi_lens.report.plots.peaks import Curve, draw_curve
from mi_lens.report.plots.style import (
    BLUE,
    CLASS_COLOURS,
    GREEN,
    GREY,
    MI_LABEL,
    ORANGE,
    PURPLE,
    Theme,
    printable,
)
from mi_lens.traces.thoughts import Thought

SETTLED = PURPLE  # The line where the final answer is settled.
BELIEF_COLOURS = {"gold": BLUE, "final": ORANGE, "gold and final": GREEN}
BELIEF_MARKERS = {"gold": "o", "final": "s", "gold and final": "o"}


def draw_mi(axes: Axes, curve: Curve, rule: PeakRule) -> None:
    """MI with the band of other answers, its threshold and its peaks."""
    draw_curve(axes, curve, rule, labelled=8 if any(curve.labels) else 0)
    axes.set_ylabel(MI_LABEL)


def draw_belief(axes: Axes, belief: Belief, settled_at: int | None) -> None:
    """The probability of the gold and of the final answer at every cut."""
    for line in belief_lines(belief):
        axes.plot(
            belief.cuts,
            line.probabilities,
            marker=BELIEF_MARKERS[line.name],
            markersize=2.5,
            linewidth=0.8,
            color=BELIEF_COLOURS[line.name],
            label=printable(f"{line.name}: {one_line(line.answer, 14)}"),
        )
    if settled_at is not None:
        label = f"settled: {settled_at}"
        axes.plot([], [], color=SETTLED, linewidth=0.9, linestyle=(0, (4, 2)), label=label)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("belief")


def draw_entropy(axes: Axes, values: Float[np.ndarray, " step"]) -> None:
    """Entropy of the next token."""
    axes.plot(values, color=GREY, linewidth=0.7)
    axes.set_ylim(min(0.0, float(values.min(initial=0.0))), 1.08 * float(values.max(initial=1e-3)))
    axes.set_ylabel("entropy\n(bits)")


def draw_effects(axes: Axes, effects: Sequence[Effect]) -> None:
    """Success with a token or a thought, less success without it."""
    axes.axhline(0, color=GREY, linewidth=0.5)
    names = {"token": True, "thought": True}  # whether the legend lacks it still
    for effect in effects:
        mean, low, high = effect.effect.mean, effect.effect.low, effect.effect.high
        if mean is None:
            continue
        kind = "token" if effect.stop - effect.start == 1 else "thought"
        colour = BLUE if kind == "token" else ORANGE
        label = kind if names[kind] else None
        names[kind] = False
        middle = (effect.start + effect.stop - 1) / 2
        if low is not None and high is not None:
            axes.plot([middle, middle], [low, high], color=colour, linewidth=0.8)
        if kind == "token":
            axes.plot(middle, mean, "o", color=colour, markersize=3, label=label)
        else:
            ends = [effect.start, effect.stop - 1]
            axes.plot(ends, [mean, mean], color=colour, linewidth=2.2, label=label)
    axes.set_ylim(-1.06, 1.06)
    axes.set_yticks([-1, 0, 1])
    axes.set_ylabel("right with it\nless without")


def draw_thoughts(axes: Axes, thoughts: Sequence[Thought]) -> None:
    """A strip of thoughts for every class."""
    names: Mapping[str, str] = CLASS_COLOURS
    for row, (name, colour) in enumerate(names.items()):
        spans = [(t.start, t.stop - t.start) for t in thoughts if t.thought_class == name]
        axes.broken_barh(spans, (row - 0.38, 0.76), color=colour, linewidth=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="y", length=0)


def draw_lens(axes: Axes, lens: AnswerLens, theme: Theme) -> None:
    """The probability of the gold answer's first token, one row per hook name.

    The scale runs from 0 to the highest probability.
    """
    assert lens.gold is not None
    names, rows = list(lens.gold.probability), np.stack(list(lens.gold.probability.values()))
    top = float(rows.max()) or 1.0
    image = axes.imshow(
        thinned(rows, COLUMNS),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(-0.5, rows.shape[1] - 0.5, -0.5, len(rows) - 0.5),
        cmap=rising(theme),
        vmin=0.0,
        vmax=top,
    )
    blocks = [BLOCK.fullmatch(name) for name in names]
    texts = [name if block is None else block[1] for name, block in zip(names, blocks, strict=True)]
    every = -(-len(names) // 6)
    axes.set_yticks(range(0, len(names), every), texts[::every], parse_math=False)
    axes.set_ylabel(f"{lens.lens} lens\n(block)")
    scale = axes.inset_axes((1.02, 0.06, 0.012, 0.6))
    bar = axes.figure.colorbar(image, cax=scale)
    bar.outline.set_linewidth(0.5)
    bar.set_ticks([0.0, top], labels=["0", f"{top:.2g}"])
    label = printable(f"first token of gold: {lens.gold.text!r}")
    axes.text(1.015, 0.86, label, transform=axes.transAxes, fontsize=7, parse_math=False)
