"""Peaks of a mutual-information trajectory, and the statistics that paper 1 reports about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from mi_lens.common.arrays import as_float64
from mi_lens.common.html import table
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule, TopK

MINIMUM_STEPS = 4  # Quartiles cannot divide fewer values into four parts.


def _trajectory(mi: ArrayLike | Tensor) -> Float[np.ndarray, "step"]:
    if hasattr(mi, "keys"):
        raise ValueError(
            f"an object of type {type(mi).__name__}; expected a trajectory, one value per step, "
            "such as a row of mi_trajectories(states_of(cache, trace), answer)"
        )
    values = as_float64(mi)
    if values.ndim != 1:
        raise ValueError(
            f"a trajectory of shape {values.shape}: expected one value per step, shape (steps,); "
            "pass the row of a single hook name"
        )
    if len(values) < MINIMUM_STEPS:
        raise ValueError(
            f"a trajectory of {len(values)} steps: peaks are defined by quartiles, which need at "
            f"least {MINIMUM_STEPS} steps; leave such traces out"
        )
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"the trajectory is {values[step]} at step {step}; expected finite values")
    return values


def find_peaks(mi: ArrayLike | Tensor, rule: PeakRule = PAPER_RULE) -> Int[np.ndarray, "peak"]:
    """The steps of a trajectory that are peaks according to a rule, in order.

    Args:
        mi: One value per step, shape (steps,).
        rule: `IQR()` (paper 1), `MAD(k)` or `TopK(k)`.

    Raises:
        ValueError: If the trajectory is shorter than four steps or not finite.
    """
    return rule.steps(_trajectory(mi))


def top_k_peaks(mi: ArrayLike | Tensor, k: int = TopK.k) -> Int[np.ndarray, "peak"]:
    """The k steps of highest value (paper 1's notebook): `find_peaks` with `TopK(k)`."""
    return find_peaks(mi, TopK(k))


@dataclass(frozen=True)
class PeakStatistics:
    """The statistics that paper 1 reports about a trajectory's peaks (its tables 1 and 2).

    Attributes:
        steps: Number of steps of the trajectory.
        count: Number of peaks.
        ratio: Number of peaks per step.
        interval_min: Smallest distance between neighbouring peaks, in steps. None if there are
            fewer than two peaks.
        interval_mean: Mean distance between neighbouring peaks, or None as above.
        interval_max: Largest distance between neighbouring peaks, or None as above.
        aom: Abnormality of the peaks: the mean over peaks of |m_t - median| / IQR. None if there
            are no peaks or the IQR is zero.
        mean: Mean of the trajectory.
        std: Population standard deviation of the trajectory.
    """

    steps: int
    count: int
    ratio: float
    interval_min: int | None
    interval_mean: float | None
    interval_max: int | None
    aom: float | None
    mean: float
    std: float

    def _repr_html_(self) -> str:
        return table({name.replace("_", " "): value for name, value in vars(self).items()})


def peak_statistics(
    mi: ArrayLike | Tensor, peaks: Sequence[int] | Int[np.ndarray, "peak"]
) -> PeakStatistics:
    """Statistics of a trajectory and its peaks.

    Args:
        mi: One value per step, shape (steps,).
        peaks: The steps of the peaks, as `find_peaks` or `top_k_peaks` returns them.

    Raises:
        ValueError: If the trajectory is too short or not finite, or a peak lies outside it.
    """
    values = _trajectory(mi)
    steps = np.unique(np.asarray(peaks, dtype=np.int64))
    if len(steps) and not 0 <= steps[0] <= steps[-1] < len(values):
        raise ValueError(
            f"peaks from step {steps[0]} to {steps[-1]} on a trajectory of {len(values)} steps; "
            "expected steps of this trajectory"
        )
    intervals = np.diff(steps)
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    aom = None
    if len(steps) and q3 > q1:
        aom = float(np.mean(np.abs(values[steps] - median)) / (q3 - q1))
    return PeakStatistics(
        steps=len(values),
        count=len(steps),
        ratio=len(steps) / len(values),
        interval_min=int(intervals.min()) if len(intervals) else None,
        interval_mean=float(intervals.mean()) if len(intervals) else None,
        interval_max=int(intervals.max()) if len(intervals) else None,
        aom=aom,
        mean=float(values.mean()),
        std=float(values.std()),
    )
