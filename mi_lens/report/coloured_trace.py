"""The text of a trace in a notebook, each token coloured by its value on a trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mi_lens.common.arrays import as_float64
from mi_lens.common.html import BOX, LINE, NOTE, element, escaped, one_line
from mi_lens.traces.trace import Trace

# The figures' colours. The blue is never so deep that black text on a white page or white text on
# a black page is hard to read.
BLUE, ORANGE = (0, 114, 178), "#D55E00"
DEEPEST = 0.7
PEAK = f"outline:2px solid {ORANGE};border-radius:2px;font-weight:bold;"
SIDE_BY_SIDE = "display:flex;flex-wrap:wrap;gap:1em;"
HALF = "flex:1 1 20em;min-width:0;"  # on a phone, one below the other
HIGHEST = 0.98  # The deepest colour begins at this quantile of a trace's values.


def colour_range(values: Float[np.ndarray, " step"]) -> tuple[float, float]:
    """The value that has no colour and the one that has the deepest; higher values share it.

    A few very high values would otherwise leave all others pale. The report's page and `show` both
    colour by this range.
    """
    return float(values.min()), float(np.quantile(values, HIGHEST))


@dataclass(frozen=True)
class ColouredTrace:
    """Tokens with numbers; a notebook shows them as coloured text.

    Attributes:
        title: The line above the text.
        tokens: The tokens as text.
        values: One value per token.
        peaks: Steps to outline.
        other: The tokens of a trace to set beside; None if there is none.
        other_title: The line above them.
        shared: How many of the first tokens are the same in both, and are not shown.
    """

    title: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    peaks: frozenset[int]
    other: tuple[str, ...] | None = None
    other_title: str = ""
    shared: int = 0

    def __repr__(self) -> str:
        beside = "" if self.other is None else f", beside {len(self.other):,} tokens of another"
        return f"ColouredTrace({one_line(self.title, 80)!r}: {len(self.tokens):,} tokens{beside})"

    def _repr_html_(self) -> str:
        values = np.array(self.values)
        low, high = colour_range(values)
        heat = np.clip((values - low) / (high - low or 1.0), 0.0, 1.0).tolist()
        coloured = [
            _token(step, self.tokens[step], self.values[step], heat[step], step in self.peaks)
            for step in range(self.shared, len(self.tokens))
        ]
        heading = _heading(self.title, low, high)
        if self.other is None:
            return f"{heading}\n{_box(coloured)}"
        plain = [_plain(step, token) for step, token in enumerate(self.other)][self.shared :]
        same = f"The first {self.shared:,} tokens are the same in both and are left out."
        if self.shared == len(self.tokens) == len(self.other):
            same = f"All {self.shared:,} tokens are the same in both."
        ours = element("div", f"{heading}{_box(coloured)}", HALF)
        other_heading = element("div", escaped(self.other_title), NOTE)
        theirs = element("div", f"{other_heading}{_box(plain)}", HALF)
        return f"{element('div', same, NOTE)}\n{element('div', ours + theirs, SIDE_BY_SIDE)}"


def show(
    trace: Trace,
    mi: ArrayLike,
    peaks: ArrayLike = (),
    *,
    tokenizer: Any,
    compare: Trace | None = None,
) -> ColouredTrace:
    """The text of a trace, coloured by a trajectory, with its peaks outlined.

    The highest 2 % of this trace's values have the deepest blue, the lowest value has none, as on
    the report's page. Point at a token to see its step and value. "↵" stands before each line
    break.

    Args:
        trace: The trace.
        mi: One value per step: a trajectory at one hook name, or any other number.
        peaks: Steps to outline.
        tokenizer: Of the traces' token ids, as `model.tokenizer`.
        compare: Another trace of the same prompt, such as the steered one. The two stand side by
            side, from their first different token; the other has no colours.

    Returns:
        An object that a notebook shows as HTML if it is the last expression of a cell.

    Raises:
        ValueError: If there is not one finite value per step, a peak lies outside the trace, or
            the two traces have different prompts.
    """
    values = _one_per_step(trace, mi)
    steps = np.asarray(peaks, dtype=int).reshape(-1)
    outside = steps[(steps < 0) | (steps >= len(trace))]
    if len(outside):
        raise ValueError(
            f"trace {trace.id} has {len(trace)} steps, but peaks holds step {outside[0]}; expected "
            "peaks of this trace"
        )
    problem = trace.problem
    shown = ColouredTrace(
        title=f"{problem.question} Gold answer: {problem.answer}" if problem else trace.id,
        tokens=tuple(trace.token_strings(tokenizer)),
        values=tuple(values.tolist()),
        peaks=frozenset(steps.tolist()),
    )
    if compare is None:
        return shown
    if compare.prompt_ids != trace.prompt_ids:
        raise ValueError(
            f"traces {trace.id} and {compare.id} have different prompts; expected two traces of "
            "one problem in one prompt style"
        )
    return replace(
        shown,
        title=f"{_condition(trace)}. {shown.title}",
        other=tuple(compare.token_strings(tokenizer)),
        other_title=_condition(compare),
        shared=_shared_steps(trace, compare),
    )


def _one_per_step(trace: Trace, mi: ArrayLike) -> Float[np.ndarray, " step"]:
    values = as_float64(mi)
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
    return values


def _shared_steps(trace: Trace, other: Trace) -> int:
    """How many of the first steps of two traces emit the same tokens."""
    pairs = zip(trace.token_ids, other.token_ids, strict=False)
    different = (step for step, (a, b) in enumerate(pairs) if a != b)
    return next(different, min(len(trace), len(other)))


def _condition(trace: Trace) -> str:
    name = one_line(trace.condition.get("name", "imported"), 80)
    return f"{name}, seed {trace.seed}, {len(trace):,} tokens"


def _plain(step: int, token: str) -> str:
    text = escaped(token).replace("\n", "↵\n")
    return f'<span style="" title="step {step}">{text}</span>'


def _box(tokens: Sequence[str]) -> str:
    return element("pre", "".join(tokens) or "(ended)", f"{BOX}line-height:1.9;", tabindex=0)


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
        f'{escaped(title)}<br>{low:.4g} <span style="{scale}"></span> {high:.4g} and more, {peak}',
        NOTE,
    )
