"""Means with intervals, and paired tests.

The units of all of them are problems or traces, never steps, which are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import binom, binomtest, norm, rankdata
from scipy.stats import t as student

from mi_lens.common.arrays import as_float64
from mi_lens.common.html import table, with_interval
from mi_lens.common.resampling import resample


@dataclass(frozen=True)
class Estimate:
    """A mean over units with its bootstrap interval.

    Attributes:
        mean: The mean; None if there are no units.
        low: Lower end of the interval; None with fewer than two units.
        high: Upper end of the interval; None with fewer than two units.
        n: Number of units.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def text(self) -> str:
        """The mean and its interval with four digits, such as "1.5 (1.2 to 1.9)"."""
        return self.in_form(".4g")

    def in_form(self, form: str, scale: float = 1.0) -> str:
        """Like `text`, with every number multiplied by `scale` and in a format such as "+.1f"."""
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
    """Percentile bootstrap interval of the mean over units: its lower and its upper end."""
    weights = resample(len(values), draws, seed) / len(values)
    tail = (1 - confidence) / 2
    return np.quantile(np.tensordot(weights, values, axes=1), [tail, 1 - tail], axis=0)


def spearman(a: Float[np.ndarray, " step"], b: Float[np.ndarray, " step"]) -> float:
    """Spearman's rank correlation; equal values share their mean rank.

    It is NaN if any value is NaN or if one of the two series is constant.
    """
    if np.isnan(a).any() or np.isnan(b).any() or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def estimate_mean(values: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean over units and its bootstrap interval.

    Raises:
        ValueError: If a value is not finite.
    """
    array = _finite(values, "unit")
    n = len(array)
    if n < 2:
        return Estimate(float(array[0]) if n else None, None, None, n)
    low, high = mean_interval(array, confidence=confidence, seed=seed)
    return Estimate(float(array.mean()), float(low), float(high), n)


def estimate_crossed(
    table: Float[np.ndarray, "draw problem"], *, confidence: float = 0.95
) -> Estimate:
    """The mean over problems and over random draws of a control, both of which could be others.

    A control of random words, directions or steps is itself drawn. An interval over problems alone
    holds the draws fixed: it is of these controls, not of such controls. Here a value is

        mean + effect of the draw + effect of the problem + rest,

    all drawn at random, so that the mean of J draws and n problems has the variance

        (MS_draws + MS_problems - MS_rest) / (J n)

    by the mean squares of a two-way table; the interval is Student's, with Satterthwaite's degrees
    of freedom. With few draws it is wide, as it must be; a percentile bootstrap of both is not, as
    five draws resampled vary too little: where draws decide it holds the truth in .85 of cases.

    Args:
        table: A value for every draw and problem, such as the difference of a condition from the
            draw's control on the problem.
        confidence: The chance that the interval holds the mean over all draws and problems.

    Returns:
        The estimate; its number of units is that of problems.

    Raises:
        ValueError: If there is one draw, which does not tell how draws differ; if there are fewer
            than two problems; or if a value is not finite.
    """
    values = np.asarray(table, dtype=np.float64)
    draws, problems = values.shape
    if draws < 2 or problems < 2:
        raise ValueError(
            f"a table of {draws} draws and {problems} problems; expected 2 or more of both, as "
            "one does not tell how others differ: take more draws of the control"
        )
    if not np.isfinite(values).all():
        draw, problem = (int(place) for place in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(
            f"draw {draw}, problem {problem} is {values[draw, problem]}; expected finite numbers"
        )
    mean, of_draw, of_problem = values.mean(), values.mean(1), values.mean(0)
    rest = values - of_draw[:, None] - of_problem + mean
    freedom = np.array([draws - 1, problems - 1, (draws - 1) * (problems - 1)])
    squares = (
        np.array(
            [
                problems * ((of_draw - mean) ** 2).sum(),
                draws * ((of_problem - mean) ** 2).sum(),
                (rest**2).sum(),
            ]
        )
        / freedom
    )
    # No less than the greater of both: where they vary less than the rest, that is by chance.
    whole = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if whole <= 0:
        return Estimate(float(mean), float(mean), float(mean), problems)
    effective = max(whole**2 / (squares**2 / freedom).sum(), 1.0)
    half = student.ppf((1 + confidence) / 2, effective) * math.sqrt(whole / (draws * problems))
    return Estimate(float(mean), float(mean - half), float(mean + half), problems)


def _finite(values: ArrayLike, what: str) -> Float[np.ndarray, " unit"]:
    array = as_float64(values)
    if array.ndim != 1:
        raise ValueError(f"numbers of shape {array.shape}; expected one for each {what}")
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{what} {place} is {array[place]}; expected finite numbers")
    return array


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """McNemar's exact two-sided p-value for paired outcomes.

    Only pairs whose outcomes differ count. Under the null hypothesis each of them is equally
    likely to change from wrong to right as from right to wrong. The p-value is 1 if no pair
    differs.

    Raises:
        ValueError: If `before` and `after` differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} outcomes before and {len(after)} after; expected pairs")
    mended = sum(b < a for b, a in zip(before, after, strict=True))
    broken = sum(b > a for b, a in zip(before, after, strict=True))
    return float(binomtest(mended, mended + broken).pvalue) if mended + broken else 1.0


def sign_flip(differences: ArrayLike, *, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of a sign-flip test: are paired differences symmetric about zero?

    Use it for outcomes that are averaged over several seeds, which McNemar's test cannot count.

    Raises:
        ValueError: If a difference is not finite.
    """
    values = _finite(differences, "difference")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(values)))
    reached = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((1 + reached.sum()) / (1 + draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's method, which bounds the chance of any false discovery."""
    n = len(p_values)
    adjusted = [0.0] * n
    largest = 0.0
    for rank, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def paired_power(problems: int, gain: float, changed: float, *, level: float = 0.05) -> float:
    """The power of McNemar's exact test: the chance that it detects a gain in accuracy.

    Args:
        problems: Number of problems that are tried under both conditions.
        gain: Difference of the two accuracies, such as 0.05.
        changed: Share of problems whose outcome differs between the conditions, at least |gain|.
        level: Significance level of the two-sided test, between 0 and 1.

    Raises:
        ValueError: If `changed` is not in (0, 1], |gain| is larger than `changed`, or a number is
            out of its range.
    """
    _require_pairs(gain, changed, level)
    if problems < 0:
        raise ValueError(f"problems={problems}: expected 0 or more")
    # Only numbers of changed pairs within twelve standard deviations have a chance to occur.
    middle, reach = problems * changed, 12 * math.sqrt(problems * changed * (1 - changed)) + 12
    pairs = np.arange(max(0, int(middle - reach)), min(problems, int(middle + reach)) + 1)
    likely = binom.pmf(pairs, problems, changed)
    # The largest count in the lower rejection region; the upper region is its mirror image.
    low = binom.ppf(level / 2, pairs, 0.5) - 1
    low += (2 * binom.cdf(low + 1, pairs, 0.5) <= level).astype(float)
    up = (changed + gain) / (2 * changed)
    rejected = binom.cdf(low, pairs, up) + binom.sf(pairs - low - 1, pairs, up)
    return float(likely @ np.where(low < 0, 0.0, rejected))


def _require_pairs(gain: float, changed: float, level: float) -> None:
    if not 0 < changed <= 1 or not abs(gain) <= changed:
        raise ValueError(
            f"gain={gain} with changed={changed}: expected a share of changed problems above 0, "
            "at most 1, and at least as large as the gain"
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a significance level between 0 and 1")


EXACT_PAIRS = 100  # Beyond, the closed form of `problems_needed` is within 2 %.


def problems_needed(gain: float, changed: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """The number of problems that McNemar's exact test needs to detect a gain.

    Where the outcomes of up to a hundred problems change, this is the number at which
    `paired_power` reaches the power. Beyond, it is the normal approximation (Connor 1987) with
    c = `changed` and a continuity correction (Fleiss 1981):

        m = (z_level sqrt(c) + z_power sqrt(c - gain^2))^2 / gain^2
        n = m / 4 (1 + sqrt(1 + 4 / (m |gain|)))^2

    Args:
        gain: Difference of the two accuracies; not zero.
        changed: Share of problems whose outcome differs between the conditions.
        power: The chance of detection that is wanted; larger than the level, smaller than 1.
        level: Significance level of the two-sided test, between 0 and 1.

    Raises:
        ValueError: As in `paired_power`, if the gain is zero, or if the power is out of its range.
    """
    _require_pairs(gain, changed, level)
    if gain == 0:
        raise ValueError("gain=0: no number of problems can reveal a difference of zero")
    if not level < power < 1:
        raise ValueError(
            f"power={power}: expected a chance of detection above the level, {level}, and below 1"
        )
    spread = math.sqrt(changed - gain**2)
    reached = norm.isf(level / 2) * math.sqrt(changed) + norm.ppf(power) * spread
    plain = (float(reached) / gain) ** 2
    enough = math.ceil(plain / 4 * (1 + math.sqrt(1 + 4 / (plain * abs(gain)))) ** 2)
    if enough * changed > EXACT_PAIRS:
        return enough

    def suffices(problems: int) -> bool:
        return paired_power(problems, gain, changed, level=level) >= power

    while not suffices(enough):
        enough += 1 + enough // 8
    low = 2 * enough // 3
    while low > 0 and suffices(low):
        enough, low = low, 2 * low // 3
    while enough - low > 1:
        middle = (low + enough) // 2
        low, enough = (low, middle) if suffices(middle) else (middle, enough)
    return enough
