"""The text of a trace in a notebook, each token coloured by its value on a trajectory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mi_lens.common.html import BOX, LINE, NOTE, element, escaped
from mi_lens.traces.trace import Trace

# The figures' colours. The blue is never so deep that black text on a white page or white text on
# a black page is hard to read.
BLUE, ORANGE = (0, 114, 178), "#D55E00"
DEEPEST = 0.7
PEAK = f"outline:2px solid {ORANGE};border-radius:2px;font-weight:bold;"


@dataclass(frozen=True)
class ColouredTrace:
    """Tokens with numbers; a notebook shows them as coloured text.

    Attributes:
        title: The line above the text.
        tokens: The tokens as text.
        values: One value per token.
        peaks: Steps to outline.
    """

    title: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    peaks: frozenset[int]

    def _repr_html_(self) -> str:
        low, high = min(self.values), max(self.values)
        span = high - low or 1.0
        coloured = "".join(
            _token(step, token, value, (value - low) / span, step in self.peaks)
            for step, (token, value) in enumerate(zip(self.tokens, self.values, strict=True))
        )
        text = element("pre", coloured, f"{BOX}line-height:1.9;", tabindex=0)
        return f"{_heading(self.title, low, high)}\n{text}"


def show(trace: Trace, mi: ArrayLike, peaks: ArrayLike = (), *, tokenizer: Any) -> ColouredTrace:
    """The text of a trace, coloured by a trajectory, with its peaks outlined.

    The highest value of this trace has the deepest blue, the lowest has none. Point at a token to
    see its step and value. "↵" stands before each line break.

    Args:
        trace: The trace.
        mi: One value per step: a trajectory at one hook name, or any other number.
        peaks: Steps to outline.
        tokenizer: Of the trace's token ids, as `model.tokenizer`.

    Returns:
        An object that a notebook shows as HTML if it is the last expression of a cell.

    Raises:
        ValueError: If there is not one finite value per step, or a peak lies outside the trace.
    """
    values = np.asarray(mi, dtype=float)
    if values.shape != (len(trace),) or not len(trace):
        raise ValueError(
            f"trace {trace.id} of {len(trace)} steps with values of shape {values.shape}: expected "
            "one value per step; pass one trace's trajectory at one hook name"
        )
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"trace {trace.id}: the value at step {step} is {values[step]}; expected finite values"
        )
    steps = np.asarray(peaks, dtype=int).reshape(-1)
    outside = steps[(steps < 0) | (steps >= len(trace))]
    if len(outside):
        raise ValueError(
            f"trace {trace.id} has {len(trace)} steps, but peaks holds step {outside[0]}; expected "
            "peaks of this trace"
        )
    problem = trace.problem
    return ColouredTrace(
        title=f"{problem.question} Gold answer: {problem.answer}" if problem else trace.id,
        tokens=tuple(trace.token_strings(tokenizer)),
        values=tuple(values.tolist()),
        peaks=frozenset(steps.tolist()),
    )


def _blue(heat: float) -> str:
    return f"rgba({','.join(map(str, BLUE))},{DEEPEST * heat:.2f})"


def _token(step: int, token: str, value: float, heat: float, peak: bool) -> str:
    style = f"background:{_blue(heat)};{PEAK if peak else ''}"
    title = f"step {step}: {value:.4g}{', peak' if peak else ''}"
    text = escaped(token).replace("\n", "↵\n")
    return f'<span style="{style}" title="{title}">{text}</span>'


def _heading(title: str, low: float, high: float) -> str:
    scale = (
        f"display:inline-block;width:8em;height:.8em;vertical-align:middle;border:{LINE};"
        f"background:linear-gradient(to right,{_blue(0.0)},{_blue(1.0)});"
    )
    peak = f'<span style="{PEAK}">&nbsp;peak&nbsp;</span>'
    return element(
        "div",
        f'{escaped(title)}<br>{low:.4g} <span style="{scale}"></span> {high:.4g}, {peak}',
        NOTE,
    )
