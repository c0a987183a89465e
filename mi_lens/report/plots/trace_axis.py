"""One trace on one axis: MI with its null band, belief, entropy, effects and thoughts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mi_lens.common.arrays import as_float64
from mi_lens.common.html import one_line
from mi_lens.evaluation.along_trace import belief_lines, effects_along
from mi_lens.evaluation.critical_tokens import Rollouts
from mi_lens.evaluation.resample_thoughts import ResampledThought
from mi_lens.information.lenses.answer_lens import AnswerLens
from mi_lens.information.per_trace.belief import Belief
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.information.per_trace.settled import settled
from mi_lens.report.plots.peaks import Curve
from mi_lens.report.plots.style import PAGE, Theme, printable, style
from mi_lens.report.plots.trace_panels import (
    SETTLED,
    draw_belief,
    draw_effects,
    draw_entropy,
    draw_lens,
    draw_mi,
    draw_thoughts,
)
from mi_lens.traces.thoughts import Thought
from mi_lens.traces.trace import Trace

ENTROPY = "entropy"


@dataclass(frozen=True)
class Panel:
    """One panel of the figure: its height in inches, and what draws it."""

    height: float
    draw: Callable[[Axes], None]


def plot_trace(
    trace: Trace,
    *,
    measurement: Measurement | None = None,
    lens: AnswerLens | None = None,
    belief: Belief | None = None,
    entropy: ArrayLike | None = None,
    rollouts: Sequence[Rollouts] = (),
    resampled: Sequence[ResampledThought] = (),
    thoughts: Sequence[Thought] = (),
    tokens: Sequence[str] | None = None,
    rule: PeakRule = PAPER_RULE,
    title: str | None = None,
    theme: Theme = "light",
    width: int | float = PAGE,
) -> Figure:
    """Everything that was measured along a trace, in panels that share the axis of its steps.

    From above: MI with the band of 95 % of other problems' answers and its peaks; the probability
    of the gold answer's first token by a lens, block by block; the probability of the gold and of
    the trace's final answer, if the model were asked there; the entropy of the next token; the
    effect of tokens and thoughts on success; thoughts by class. A panel without data is left out.
    A dashed line through all panels is the first step from which on the model, if asked, gives the
    trace's final answer (`settled`).

    Args:
        trace: The trace.
        measurement: Its measurement at one hook name, such as `Analysis.measurement` gives.
        lens: What `answer_lens` gives of it.
        belief: What `answer_belief` gives of it.
        entropy: Entropy of the next token in bits, one value per step, such as
            `next_token_uncertainty` gives. None takes that of the measurement.
        rollouts: What `roll_out` gives; those of other traces are left out. A mark is the share of
            right continuations with the token less the share without it, with Newcombe's interval.
        resampled: What `resample_thoughts` gives; those of other traces are left out. A bar is the
            same of a thought.
        thoughts: What `split_thoughts` gives.
        tokens: One text per step, as `trace.token_strings(model.tokenizer)`, which labels peaks.
        rule: The rule that selects peaks of MI.
        title: The figure's title; None takes the question.
        theme: "light" or "dark".
        width: Width of the figure in inches.

    Returns:
        A figure. In a notebook, end the line with a semicolon to see it once.

    Raises:
        ValueError: If there is nothing to draw, or something is of another trace or of another
            number of steps.
    """
    steps = len(trace)
    effects = effects_along(trace.id, rollouts, resampled)
    panels: dict[str, Panel] = {}
    if measurement is not None:
        curve = _curve(trace, measurement, rule, tokens)
        panels["mi"] = Panel(1.5, lambda axes: draw_mi(axes, curve, rule))
        entropy = measurement.covariates.get(ENTROPY) if entropy is None else entropy
    step = None
    if lens is not None and lens.gold is not None:
        _require_of(trace, lens.trace, "a lens")
        for values in lens.gold.probability.values():
            _one_per_step(trace, values, "a lens")
        height = 0.35 + 0.12 * min(10, len(lens.gold.probability))
        panels["lens"] = Panel(height, lambda axes: draw_lens(axes, lens, theme))
    if belief is not None and belief_lines(belief):
        _require_of(trace, belief.trace, "a belief")
        step = settled(belief).step
        panels["belief"] = Panel(0.9, lambda axes: draw_belief(axes, belief, step))
    if entropy is not None:
        values = _one_per_step(trace, entropy, ENTROPY)
        panels["entropy"] = Panel(0.7, lambda axes: draw_entropy(axes, values))
    if effects:
        panels["effects"] = Panel(0.9, lambda axes: draw_effects(axes, effects))
    if thoughts:
        _require_within(trace, thoughts)
        panels["thoughts"] = Panel(0.5, lambda axes: draw_thoughts(axes, thoughts))
    if not panels:
        raise ValueError(
            f"trace {trace.id}: nothing to draw; give its measurement, lens, belief, entropy, "
            "rollouts, resampled thoughts or thoughts"
        )
    if title is None:
        question = trace.prompt if trace.problem is None else trace.problem.question
        title = one_line(question, 90)
    with style(theme):
        return _figure(list(panels.values()), step, steps, title, width)


def _figure(
    panels: Sequence[Panel], settled_at: int | None, steps: int, title: str, width: int | float
) -> Figure:
    heights = [panel.height for panel in panels]
    figure, axes = plt.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        figsize=(width, sum(heights) + 0.6),
        height_ratios=heights,
    )
    for place, panel in zip(axes[:, 0], panels, strict=True):
        panel.draw(place)
        if settled_at is not None:
            place.axvline(settled_at, color=SETTLED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=0)
        if place.get_legend_handles_labels()[0]:
            place.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4)
    axes[0, 0].set_title(printable(title), parse_math=False)
    axes[-1, 0].set_xlabel("step $t$ (generated tokens)")
    axes[-1, 0].set_xlim(-0.01 * steps, 1.01 * steps)
    figure.align_ylabels()
    return figure


def _one_per_step(trace: Trace, values: ArrayLike, what: str) -> Float[np.ndarray, " step"]:
    array = as_float64(values)
    if array.shape != (len(trace),):
        raise ValueError(
            f"trace {trace.id} of {len(trace)} steps with {what} of shape {array.shape}: expected "
            "one value per step"
        )
    return array


def _require_of(trace: Trace, other: str, what: str) -> None:
    if other != trace.id:
        raise ValueError(f"{what} of trace {other} with trace {trace.id}; give the trace's own")


def _require_within(trace: Trace, thoughts: Sequence[Thought]) -> None:
    for thought in thoughts:
        if not 0 <= thought.start <= thought.stop <= len(trace):
            raise ValueError(
                f"a thought from step {thought.start} to {thought.stop} in trace {trace.id} of "
                f"{len(trace)} steps; give the thoughts of this trace"
            )


def _curve(
    trace: Trace, measurement: Measurement, rule: PeakRule, tokens: Sequence[str] | None
) -> Curve:
    mi = _one_per_step(trace, measurement.mi, "MI")
    if tokens is not None and len(tokens) != len(trace):
        raise ValueError(f"{len(tokens)} tokens for {len(trace)} steps; expected one per step")
    calibration = measurement.calibration
    specific = None
    if calibration is not None and calibration.decides():
        specific = calibration.peaks(rule).tolist()
    return Curve(
        title="",
        mi=mi.tolist(),
        peaks=find_peaks(mi, rule).tolist(),
        labels=[printable(token) for token in tokens or [""] * len(mi)],
        mismatched=None if calibration is None else calibration.band(),
        specific_peaks=specific,
    )
