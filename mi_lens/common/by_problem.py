"""Values that belong to problems: means over problems, and differences of pairs across problems."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from mi_lens.common.resampling import percentiles, resample
from mi_lens.common.statistics import Estimate, estimate_mean


def mean_over_problems(values: Iterable[tuple[Hashable, float]]) -> Estimate:
    """The mean over problems of the mean value of each, with its bootstrap interval.

    Args:
        values: Pairs of a problem and a value.

    Raises:
        ValueError: If a value is not finite.
    """
    by_problem: dict[Hashable, list[float]] = defaultdict(list)
    for problem, value in values:
        by_problem[problem].append(value)
    return estimate_mean([float(np.mean(of_problem)) for of_problem in by_problem.values()])


def mean_of_pairs(
    values: Sequence[float],
    problems: Sequence[tuple[Hashable, Hashable]],
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of values of pairs, such as differences, whose members are of two problems.

    Pairs that share a problem are not independent of each other. So each bootstrap draw takes
    problems with replacement, and a pair counts as often as both of its problems together: by the
    product of how often they were drawn, or by that of its only problem. This is the pigeonhole
    bootstrap (Owen 2007). Its intervals are rather too wide than too narrow.

    Args:
        values: One value per pair.
        problems: The problems of both members of each pair.
        confidence: The chance that the interval holds the mean.
        draws: Number of bootstrap draws.
        seed: Seeds the draws.

    Returns:
        The mean over pairs; its number of units is that of problems.

    Raises:
        ValueError: If there are not two problems per value, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) != len(problems):
        raise ValueError(f"{len(array)} values and {len(problems)} pairs; expected one per pair")
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"the value of pair {place} is {array[place]}; expected finite numbers")
    numbers = {p: i for i, p in enumerate(dict.fromkeys(p for pair in problems for p in pair))}
    if len(numbers) < 2:
        return Estimate(float(array.mean()) if len(array) else None, None, None, len(numbers))
    first, second = (np.array([numbers[pair[side]] for pair in problems]) for side in (0, 1))
    drawn = resample(len(numbers), draws, seed)
    weights = drawn[:, first] * np.where(first == second, 1, drawn[:, second])
    total = weights.sum(1)
    # A draw without any pair has no mean.
    means = np.where(total > 0, (weights @ array) / np.maximum(total, 1), np.nan)
    low, high = percentiles(means, confidence)
    return Estimate(float(array.mean()), low, high, len(numbers))
