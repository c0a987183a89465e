"""Means with intervals, where the units that chance drew are problems or traces, never steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import binom, binomtest, rankdata

from mi_lens.common.html import table, with_interval
from mi_lens.common.resampling import resample


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

    @property
    def text(self) -> str:
        """As "1.5 (1.2 to 1.9)"."""
        return self.in_form(".4g")

    def in_form(self, form: str, scale: float = 1.0) -> str:
        """As `text`, with every number times `scale` and in a format, as "+.1f"."""
        numbers = (self.mean, self.low, self.high)
        return with_interval(*(None if x is None else scale * x for x in numbers), form=form)

    def _repr_html_(self) -> str:
        return table({"mean (interval)": self.text, "units": self.n})


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
    """Rank correlation; equal values share their mean rank.

    NaN where it is not defined: a value is NaN, or one of the two does not vary.
    """
    if np.isnan(a).any() or np.isnan(b).any() or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def estimate_mean(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean over units and its bootstrap interval."""
    array = np.array(values, dtype=float)
    n = len(array)
    if n < 2:
        return Estimate(float(array[0]) if n else None, None, None, n)
    low, high = mean_interval(array, confidence=confidence, seed=seed)
    return Estimate(float(array.mean()), float(low), float(high), n)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Exact two-sided p-value that paired outcomes change one way as often as the other.

    Only the pairs that differ count: under the null hypothesis a fair coin decides each. 1 where
    none differs.

    Raises:
        ValueError: If there are not as many of one as of the other.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} outcomes before and {len(after)} after; expected pairs")
    mended = sum(b < a for b, a in zip(before, after, strict=True))
    broken = sum(b > a for b, a in zip(before, after, strict=True))
    return float(binomtest(mended, mended + broken).pvalue) if mended + broken else 1.0


def sign_flip(differences: Sequence[float], *, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that paired differences lie about zero: their signs drawn anew.

    For outcomes averaged over several seeds, where McNemar's counts do not apply.
    """
    values = np.asarray(differences, dtype=float)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(values)))
    reached = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((1 + reached.sum()) / (1 + draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm): the chance of any false discovery is held."""
    n = len(p_values)
    adjusted = [0.0] * n
    largest = 0.0
    for rank, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def paired_power(problems: int, gain: float, changed: float, *, level: float = 0.05) -> float:
    """Chance that McNemar's exact test finds a gain in accuracy.

    Args:
        problems: How many are tried under both conditions.
        gain: Difference of the accuracies, as .05.
        changed: Share of problems whose outcome differs between the conditions, at least |gain|.
        level: Of the two-sided test.

    Raises:
        ValueError: If the gain is larger than the share that changes, or a share is impossible.
    """
    if not 0 < changed <= 1 or abs(gain) > changed:
        raise ValueError(
            f"gain={gain} with changed={changed}: the share of problems that change lies above 0, "
            "at most 1, and is at least the gain"
        )
    pairs = np.arange(problems + 1)
    likely = binom.pmf(pairs, problems, changed)
    # The largest count that is rejected from below; what is rejected from above mirrors it.
    low = binom.ppf(level / 2, pairs, 0.5) - 1
    low += (2 * binom.cdf(low + 1, pairs, 0.5) <= level).astype(float)
    up = (changed + gain) / (2 * changed)
    rejected = binom.cdf(low, pairs, up) + binom.sf(pairs - low - 1, pairs, up)
    return float(likely @ np.where(low < 0, 0.0, rejected))


def problems_needed(gain: float, changed: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """How many problems McNemar's exact test needs to find a gain; see `paired_power`.

    Raises:
        ValueError: As `paired_power`; or a gain of zero, which no number finds.
    """
    if gain == 0:
        raise ValueError("gain=0: no number of problems finds a difference that is not there")
    enough = 8
    while paired_power(enough, gain, changed, level=level) < power:
        enough *= 2
    low = enough // 2
    while enough - low > 1:
        middle = (low + enough) // 2
        if paired_power(middle, gain, changed, level=level) < power:
            low = middle
        else:
            enough = middle
    return enough
