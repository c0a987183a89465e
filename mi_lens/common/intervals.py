"""Score intervals of shares and of paired differences of shares.

A percentile bootstrap of a share is too narrow near 0 and 1 and with few units: of thirty problems
that are all right, every bootstrap draw is all right. Score intervals keep their confidence there.
`python -m experiments.coverage` computes how often each kind holds the truth.

A unit is a problem. With several seeds its value is a share or a difference of shares, and problems
of different difficulty say less than as many traces, but more than as many single trials. So the
formulas take an effective number of units: the number of trials whose variance is the one seen.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy.optimize import root_scalar
from scipy.stats import norm

from mi_lens.common.statistics import Estimate


def estimate_share(
    shares: Sequence[float], *, trials: int = 1, confidence: float = 0.95
) -> Estimate:
    """The mean of units' shares, with Wilson's score interval.

    Args:
        shares: A number between 0 and 1 per unit, such as the share of its seeds that are right.
        trials: Number of trials behind each share, such as the number of seeds.
        confidence: The chance that the interval holds the true mean.

    Raises:
        ValueError: If a share is not between 0 and 1.
    """
    values = _within(shares, 0.0)
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]) if n else None, None, None, n)
    mean = float(values.mean())
    units = n * _design_effect(mean * (1 - mean), values, trials)
    z2 = float(norm.isf((1 - confidence) / 2)) ** 2
    middle = (mean + z2 / (2 * units)) / (1 + z2 / units)
    half = sqrt(z2 * (mean * (1 - mean) + z2 / (4 * units)) / units) / (1 + z2 / units)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half), n)


def estimate_difference(
    differences: Sequence[float], *, trials: int = 1, confidence: float = 0.95
) -> Estimate:
    """The mean of paired differences of shares, with Tango's score interval (1998).

    With b and c the sums of the positive and of the negative differences among n units, the
    interval holds every D whose score statistic is within z:

        (b - c - n D) / sqrt(n (2 q + D (1 - D))),
        q the share of units that get worse, most likely given D.

    If no unit differs, its ends are the exact bound: the largest share of changed units at which n
    unchanged ones still have probability (1 - confidence) / 2.

    Args:
        differences: A number between -1 and 1 per unit.
        trials: Number of pairs of trials behind each difference, such as the number of seeds.
        confidence: The chance that the interval holds the true mean difference.

    Raises:
        ValueError: If a difference is not between -1 and 1.
    """
    values = _within(differences, -1.0)
    n = len(values)
    if n < 2:
        return Estimate(float(values[0]) if n else None, None, None, n)
    mean, tail = float(values.mean()), (1 - confidence) / 2
    if not values.any():
        bound = 1 - tail ** (1 / n)
        return Estimate(0.0, -bound, bound, n)
    more, less = float(values.clip(min=0).mean()), float((-values).clip(min=0).mean())
    units = n * _design_effect(more + less - mean**2, values, trials)
    z = float(norm.isf(tail))

    def beyond(difference: float) -> float:
        """How far the score statistic is beyond z; negative inside of the interval."""
        b = (2 - mean) * difference - more - less
        c = -less * difference * (1 - difference)
        worse = (sqrt(max(0.0, b * b - 8 * c)) - b) / 4
        variance = max(0.0, 2 * worse + difference * (1 - difference))
        return abs(mean - difference) * sqrt(units) - z * sqrt(variance)

    low = root_scalar(beyond, bracket=(-1.0, mean)).root if beyond(-1.0) > 0 else -1.0
    high = root_scalar(beyond, bracket=(mean, 1.0)).root if beyond(1.0) > 0 else 1.0
    return Estimate(mean, float(low), float(high), n)


def estimate_unpaired_difference(a: Estimate, b: Estimate) -> Estimate:
    """The difference a - b of two shares or means of independent units, from their intervals.

    The interval is as far from the difference as the intervals of both together say (MOVER; Zou and
    Donner 2008). For Wilson's intervals of shares it is Newcombe's method 10 (1998):

        a - b - sqrt((a - a_low)^2 + (b_high - b)^2),  a - b + sqrt((a_high - a)^2 + (b - b_low)^2)

    Args:
        a: A share or a mean with its interval.
        b: The other one.
    """
    n = a.n + b.n
    if a.mean is None or b.mean is None:
        return Estimate(None, None, None, n)
    difference = a.mean - b.mean
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(difference, None, None, n)
    down = sqrt((a.mean - a.low) ** 2 + (b.high - b.mean) ** 2)
    up = sqrt((a.high - a.mean) ** 2 + (b.mean - b.low) ** 2)
    return Estimate(difference, difference - down, difference + up, n)


def _within(values: Sequence[float], least: float) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if (wrong := ~((array >= least) & (array <= 1))).any():
        place = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"unit {place} is {array[place]}; expected shares of trials, from {least:g} to 1"
        )
    return array


def _design_effect(variance: float, values: np.ndarray, trials: int) -> float:
    """How many single trials a unit is worth: from 1, up to its number of trials.

    Args:
        variance: That of single trials with the same mean.
        values: The units' means.
        trials: Number of trials behind each.
    """
    seen = float(values.var(ddof=1))
    if trials == 1 or variance <= 0:
        return 1.0
    return float(np.clip(variance / seen, 1.0, trials)) if seen > 0 else float(trials)
