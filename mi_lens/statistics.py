"""Means with intervals, where the units that chance drew are problems or traces, never steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata


@dataclass(frozen=True)
class Estimate:
    """A mean over units.

    Attributes:
        mean: None without units.
        low: Lower end of its bootstrap interval; None with fewer than two units.
        high: Upper end.
        n: Number of units.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int


def resample(n: int, draws: int = 2000, seed: int = 0) -> Int[np.ndarray, "draw unit"]:
    """How often each of n units is drawn in each bootstrap draw."""
    return np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=draws)


def mean_interval(
    values: Float[np.ndarray, "unit *point"],
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "2 *point"]:
    """Percentile bootstrap interval of the mean over units, low and high."""
    weights = resample(len(values), draws, seed) / len(values)
    tail = (1 - confidence) / 2
    return np.quantile(np.tensordot(weights, values, axes=1), [tail, 1 - tail], axis=0)


def spearman(a: Float[np.ndarray, " step"], b: Float[np.ndarray, " step"]) -> float:
    """Rank correlation; equal values share their mean rank. Neither may be constant."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def estimate_mean(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean over units and its bootstrap interval."""
    array = np.array(values, dtype=float)
    n = len(array)
    if n < 2:
        return Estimate(float(array[0]) if n else None, None, None, n)
    low, high = mean_interval(array, confidence=confidence, seed=seed)
    return Estimate(float(array.mean()), float(low), float(high), n)
