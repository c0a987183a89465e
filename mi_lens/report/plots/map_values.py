"""What a map of layers and steps shows, taken from an analysis, trajectories or an array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from mi_lens.common.arrays import as_float64
from mi_lens.information.per_trace.controls import others_needed
from mi_lens.information.per_trace.peak_rules import PeakRule
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.report.plots.style import MI_LABEL
from mi_lens.runs.analysis import Analysis
from mi_lens.traces.trace import Trace

Measure = Literal["mi", "specific", "entropy", "surprisal"]
Peaks = PeakRule | Mapping[str, ArrayLike] | None
LABELS = {
    "mi": MI_LABEL,
    "specific": "specific part (standard deviations of other answers)",
    "entropy": "entropy (bits)",
    "surprisal": "surprisal (bits)",
}
HIGHEST = 0.98  # Values above this quantile have the deepest colour.


@dataclass(frozen=True)
class LayerMap:
    """What a map shows.

    Attributes:
        rows: Names of the rows, the lowest first.
        values: One value per row and step.
        peaks: For every row, its marked steps.
        tokens: One text per step; empty for steps without texts.
        label: What the values are.
        signed: Whether zero is the middle of the colours.
    """

    rows: tuple[str, ...]
    values: Float[np.ndarray, "row step"]
    peaks: tuple[Int[np.ndarray, "_"], ...]
    tokens: tuple[str, ...]
    label: str
    signed: bool

    def normalised(self) -> "LayerMap":
        """Every row on a scale of its own.

        A row runs from its lowest value, 0, to its 98 % quantile, 1. Signed values keep their
        zero, and the 98 % quantile of a row's magnitudes becomes 1.
        """
        if self.signed:
            low = np.zeros((len(self.rows), 1))
            high = np.quantile(np.abs(self.values), HIGHEST, axis=1, keepdims=True)
        else:
            low = self.values.min(1, keepdims=True)
            high = np.quantile(self.values, HIGHEST, axis=1, keepdims=True)
        span = np.where(high > low, high - low, 1.0)  # A constant row is 0 throughout.
        return LayerMap(
            self.rows,
            (self.values - low) / span,
            self.peaks,
            self.tokens,
            f"{self.label}, each row scaled by itself",
            self.signed,
        )


def map_of_analysis(
    analysis: Analysis,
    trace: Trace | None,
    measure: Measure,
    hook_names: Sequence[str] | None,
    peaks: Peaks,
    tokens: Sequence[str] | None,
    label: str | None,
) -> LayerMap:
    if measure not in get_args(Measure):
        raise ValueError(f"measure={measure!r}: expected one of {get_args(Measure)}")
    if trace is None or trace.id not in analysis.measurements:
        raise ValueError(
            f"trace {None if trace is None else trace.id}: the analysis has no measurement of it; "
            "pass one of analysis.analysed"
        )
    measurements = analysis.measurements[trace.id]
    names = _known(hook_names or analysis.hook_names, measurements)
    unmarked = ""
    if measure in ("entropy", "surprisal"):
        rows = {measure: measurements[names[0]].covariates[measure]}
    elif measure == "mi":
        rows = {name: measurements[name].mi for name in names}
        peaks = {n: analysis.peaks(trace, n) for n in names} if peaks is None else peaks
    else:
        calibrations = {name: measurements[name].calibration for name in names}
        rows = {name: c.specific for name, c in calibrations.items() if c is not None}
        if len(rows) < len(names):
            raise ValueError(
                "the analysis compared the trace with fewer than two other answers, so there is no "
                "specific part; show measure='mi', or analyze more problems"
            )
        if peaks is None:
            significant = {name: analysis.specific_peaks(trace, name) for name in names}
            peaks = {name: steps for name, steps in significant.items() if steps is not None}
            if len(peaks) < len(names):
                others = min(c.others for c in calibrations.values() if c is not None)
                unmarked = (
                    f"; no peaks: {others} other answers are too few, it takes {others_needed()}"
                )
    if tokens is None:
        places = {each.id: i for i, each in enumerate(analysis.traces)}
        tokens = analysis.token_strings[places[trace.id]]
    signed = measure == "specific"
    label = f"{label or LABELS[measure]}{unmarked}"
    return layer_map(rows, peaks, tokens, label, signed=signed)


def rows_of(
    values: Mapping[str, ArrayLike] | ArrayLike, hook_names: Sequence[str] | None
) -> dict[str, ArrayLike]:
    if isinstance(values, Mapping):
        return {name: values[name] for name in _known(hook_names or tuple(values), values)}
    array = as_float64(values)
    if array.ndim != 2 or hook_names is None or len(hook_names) != len(array):
        raise ValueError(
            f"values of shape {array.shape} with "
            f"{'no' if hook_names is None else len(hook_names)} hook names: expected shape (hook, "
            "step) and one hook name per row"
        )
    return dict(zip(hook_names, array, strict=True))


def _known(names: Sequence[str], values: Mapping[str, object]) -> Sequence[str]:
    if unknown := [name for name in names if name not in values]:
        raise ValueError(f"no values at {unknown}; there are values at {list(values)}")
    return names


def layer_map(
    rows: Mapping[str, ArrayLike],
    peaks: Peaks,
    tokens: Sequence[str] | None,
    label: str,
    *,
    signed: bool = False,
) -> LayerMap:
    """Checks the parts of a map and joins them; negative values make a map signed."""
    arrays = {name: as_float64(row) for name, row in rows.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not next(iter(shapes))[0]:
        raise ValueError(
            f"rows of shapes {sorted(shapes)}: expected one value per step, and the same number of "
            "steps at every hook name"
        )
    values = np.stack(list(arrays.values()))
    if not np.isfinite(values).all():
        row, step = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"the value at {list(rows)[row]}, step {step} is {values[row, step]}; expected finite "
            "values"
        )
    steps = values.shape[1]
    if tokens is not None and len(tokens) != steps:
        raise ValueError(f"{len(tokens)} tokens for {steps} steps; expected one per step")
    if isinstance(peaks, PeakRule):
        peaks = {name: find_peaks(row, peaks) for name, row in arrays.items()}
    marked = peaks or {}
    _known(list(marked), rows)
    chosen = tuple(np.asarray(marked.get(name, ()), dtype=int).reshape(-1) for name in rows)
    for name, places in zip(rows, chosen, strict=True):
        if outside := [place for place in places.tolist() if not 0 <= place < steps]:
            raise ValueError(
                f"the peaks at {name} hold step {outside[0]}; expected steps from 0 to {steps - 1}"
            )
    signed = signed or bool((values < 0).any())
    return LayerMap(tuple(rows), values, chosen, tuple(tokens or ()), label, signed)
