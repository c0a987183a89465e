"""Summaries that several studies share: of estimates, of outcomes, and of peaks."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

import mi_lens
from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.evaluation.comparison import Arm
from mi_lens.information.per_trace.measurement import Measurement

EXCHANGES = 1999  # Permutations of a test of rank correlation.


def with_interval(estimate: Estimate, scale: float = 1.0, digits: int = 1) -> str:
    """An estimate with its interval, as "-1.3 (-2.0 to -0.7)" or "0.0 (all 60 alike)"."""
    if estimate.mean is None:
        return "undefined"

    def number(value: float) -> str:
        return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # No "-0.0".

    if estimate.low is None or estimate.high is None:
        return number(estimate.mean)
    if np.isclose(estimate.low, estimate.high, rtol=0, atol=1e-12):
        # A bootstrap of equal values has no width, but that is not certainty.
        return f"{number(estimate.mean)} (all {estimate.n} alike)"
    return f"{number(estimate.mean)} ({number(estimate.low)} to {number(estimate.high)})"


def affine(estimate: Estimate, scale: float = 1.0, shift: float = 0.0) -> Estimate:
    """An estimate times `scale`, plus `shift`; a negative scale turns its interval around."""
    mean, low, high = (
        None if value is None else scale * value + shift
        for value in (estimate.mean, estimate.low, estimate.high)
    )
    ends = (low, high) if scale >= 0 else (high, low)
    return Estimate(mean, *ends, estimate.n)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> tuple[Estimate, float]:
    """Spearman's correlation with an interval, and the p-value when the steps are exchanged.

    The steps are the units: they are few, and others could have been chosen. The interval is that
    of Fisher's z with the standard error of Bonett and Wright (2000).
    """
    rho, n = spearman(first, second), len(first)
    rng = np.random.default_rng(0)
    ranks, others = (rankdata(values) - (n + 1) / 2 for values in (first, second))
    scale = np.sqrt((ranks @ ranks) * (others @ others))
    exchanged = np.array([rng.permutation(ranks) @ others for _ in range(EXCHANGES)]) / scale
    p_value = (1 + int((abs(exchanged) >= abs(rho) - 1e-12).sum())) / (1 + EXCHANGES)
    if n < 4 or abs(rho) >= 1:
        return Estimate(rho, None, None, n), p_value
    half = 1.96 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return Estimate(rho, float(low), float(high), n), p_value


def side(estimate: Estimate) -> int:
    """1 where the whole interval lies above zero, -1 where it lies below, 0 elsewhere."""
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > 0) - int(estimate.high < 0)


def outcomes(arm: Arm, field: str) -> np.ndarray:
    """For every problem the mean of "correct", "tokens" or "capped" over its traces."""
    return np.array(
        [
            np.mean([getattr(result, field) for result in results])
            for results in arm.by_problem().values()
        ]
    )


def accuracies(evaluation: mi_lens.Evaluation, name: str) -> np.ndarray:
    """For every problem the share of a condition's traces whose answer is right."""
    return outcomes(evaluation.arm(name), "correct")


def is_right(traces: Sequence[mi_lens.Trace]) -> np.ndarray:
    """For every trace 1 where its answer is the gold answer, 0 where not.

    A text that was written elsewhere may be cut, so its author's label counts.
    """
    return np.array(
        [
            float(
                mi_lens.grade(trace.text, trace.problem).correct
                if trace.is_correct is None
                else trace.is_correct
            )
            for trace in traces
            if trace.problem
        ]
    )


def by_block(
    analysis: mi_lens.Analysis, value: Callable[[Measurement], float | None]
) -> list[Estimate]:
    """The mean of a value over problems, block by block; traces without the value do not count."""
    estimates = []
    for hook in analysis.hook_names:
        values = [value(analysis.measurement(trace, hook)) for trace in analysis.analysed]
        estimates.append(estimate_mean([number for number in values if number is not None]))
    return estimates


def raw_peaks(mi: np.ndarray) -> set[int]:
    """The peaks of a trajectory, as the paper finds them."""
    return set(mi_lens.find_peaks(mi).tolist())


def shared_peaks(first: np.ndarray, second: np.ndarray) -> float | None:
    """Jaccard overlap of two trajectories' peaks; None where neither has a peak."""
    peaks, others = raw_peaks(first), raw_peaks(second)
    return len(peaks & others) / len(peaks | others) if peaks | others else None


def evenly_spaced(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`: evenly spaced, with the first and the last."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, most))]
