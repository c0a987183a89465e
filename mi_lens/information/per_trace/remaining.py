"""What remains of MI along a trace when another explanation is held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks

Trajectory = Float[np.ndarray, "_"]


@dataclass(frozen=True)
class Remaining:
    """What remains of MI when one covariate is held; means over traces.

    Attributes:
        variance: Share of MI's variance along a trace that no monotone function of the covariate
            gives.
        chance: The same share after the covariate's values are shuffled along the trace. A curve
            fitted to noise explains a little too.
        peaks: Share of the peaks that are also peaks of what remains. A trace without a peak does
            not count.
    """

    variance: Estimate
    chance: Estimate
    peaks: Estimate


def hold(mi: Trajectory, covariate: Trajectory) -> Trajectory:
    """MI less its best monotone function of a covariate, which may rise or fall.

    The function is fitted to this trace by least squares (isotonic regression). The direction is
    the sign of the rank correlation.

    Raises:
        ValueError: If the lengths differ or a value is not finite.
    """
    if len(mi) != len(covariate):
        raise ValueError(f"{len(mi)} steps of MI and {len(covariate)} of a covariate")
    if not (np.isfinite(mi).all() and np.isfinite(covariate).all()):
        raise ValueError("MI or the covariate holds NaN or infinity; expected finite numbers")
    if len(mi) < 3 or not np.ptp(covariate):
        return mi - mi.mean()
    # Equal values of the covariate get one value of the function.
    _, group, sizes = np.unique(covariate, return_inverse=True, return_counts=True)
    means = np.bincount(group, weights=mi) / sizes
    rises = not spearman(covariate, mi) < 0
    return mi - isotonic_regression(means, weights=sizes, increasing=rises).x[group]


def remaining(
    trajectories: Sequence[Trajectory],
    explanations: Sequence[Mapping[str, Trajectory]],
    rule: PeakRule = PAPER_RULE,
    *,
    seed: int = 0,
) -> dict[str, Remaining]:
    """What remains of MI when each covariate is held, by covariate.

    Args:
        trajectories: MI along each trace.
        explanations: The covariates of each trace, as `covariates` returns them.
        rule: The rule that selects peaks, of MI and of what remains of it.
        seed: Seed of the shuffles.
    """
    rng = np.random.default_rng(seed)
    result = {}
    for name in explanations[0]:
        shares, chances, kept = [], [], []
        for mi, explanation in zip(trajectories, explanations, strict=True):
            covariate = np.asarray(explanation[name])
            residual = hold(mi, covariate)
            if variance := mi.var():
                shares.append(residual.var() / variance)
                chances.append(hold(mi, rng.permutation(covariate)).var() / variance)
            peaks = set(find_peaks(mi, rule).tolist())
            if peaks:
                kept.append(len(peaks & set(find_peaks(residual, rule).tolist())) / len(peaks))
        result[name] = Remaining(*map(estimate_mean, (shares, chances, kept)))
    return result
