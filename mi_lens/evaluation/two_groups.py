"""Two groups of traces compared: paired within problems where they share any.

Problems differ in all that is counted in a text. So traces of the same problem are compared, and of
the same model too where both groups hold the same models. Problems that only one group has are then
left out. Groups that share no problem are compared as they are, and their difference is then one of
problems too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from mi_lens.common.provenance import content_hash
from mi_lens.common.resampling import resample
from mi_lens.common.statistics import Estimate
from mi_lens.problems.problem import normalised
from mi_lens.traces.trace import Trace

PairedBy = Literal["problem and model", "problem"]
Values = Float[np.ndarray, "trace quantity"]
PerProblem = Float[np.ndarray, "problem quantity"]
Draws = Float[np.ndarray, "draw quantity"]
CONFIDENCE = 0.95
BLOCK = 64  # Groups of rows that are permuted at once, which bounds the memory.


@dataclass(frozen=True)
class Stratum:
    """Traces that are compared with each other.

    Attributes:
        problem: The number of their problem.
        first: Their places in the first group.
        second: Their places in the second group.
    """

    problem: int
    first: list[int]
    second: list[int]


@dataclass(frozen=True)
class Pairing:
    """Which traces of two groups are compared.

    Attributes:
        paired_by: What compared traces have in common; None if the groups share no problem.
        strata: The traces that are compared with each other. If nothing is paired, these are the
            problems of either group, so that each stratum has traces of one group only.
        problems: Number of compared problems of the first and of the second group; paired problems
            count in both.
        left_out: Number of problems of each group that are not compared, for the other lacks them.
    """

    paired_by: PairedBy | None
    strata: tuple[Stratum, ...]
    problems: tuple[int, int]
    left_out: tuple[int, int]


@dataclass(frozen=True)
class Contrast:
    """One quantity in two groups of traces.

    Attributes:
        first: Its mean in the first group: over the traces of each problem, then over problems.
            Intervals are over problems. There is none where all are zero: zeros do not vary.
        second: The same in the second group.
        difference: first - second.
        ratio: first / second. There is none if the second mean is 0, and no interval if draws of
            problems have a mean of 0 too often.
        p_value: Two-sided p-value of a test that permutes the groups of the traces within each
            problem; if nothing is paired, the groups of the problems.
        p_adjusted: The p-value against the most extreme of all quantities (Westfall and Young). It
            controls the probability of any false discovery, even if quantities are correlated.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    ratio: Estimate
    p_value: float
    p_adjusted: float


def problem_key(trace: Trace) -> str:
    """What a trace's problem asks; what its prompt asks if it has no problem."""
    return trace.problem.key if trace.problem else content_hash(normalised(trace.prompt))


def pair(first: Sequence[Trace], second: Sequence[Trace]) -> Pairing:
    """Finds the traces that are compared with each other.

    Raises:
        ValueError: If a group has no traces.
    """
    if not first or not second:
        raise ValueError(
            f"groups of {len(first)} and {len(second)} traces; expected at least one trace in each"
        )
    keys = [[problem_key(trace) for trace in group] for group in (first, second)]
    models = [[trace.model for trace in group] for group in (first, second)]
    paired_by, strata = None, []
    if set(models[0]) == set(models[1]):
        cells = [list(zip(*names, strict=True)) for names in zip(keys, models, strict=True)]
        paired_by, strata = "problem and model", _shared(*map(_places, cells))
    if not strata:
        alone, other = (_places([(key,) for key in of_group]) for of_group in keys)
        paired_by, strata = "problem", _shared(alone, other)
        if not strata:
            paired_by = None
            strata = [(cell, places, []) for cell, places in alone.items()]
            strata += [(cell, [], places) for cell, places in other.items()]
    numbers: dict[str, int] = {}
    numbered = tuple(
        Stratum(numbers.setdefault(cell[0], len(numbers)), a, b) for cell, a, b in strata
    )
    compared = [len({s.problem for s in numbered if getattr(s, side)}) for side in SIDES]
    left_out = [len(set(of_group)) - n for of_group, n in zip(keys, compared, strict=True)]
    return Pairing(paired_by, numbered, (compared[0], compared[1]), (left_out[0], left_out[1]))


SIDES = ("first", "second")
Cell = tuple[str, ...]  # A problem; or a problem and a model.
Places = dict[Cell, list[int]]


def _places(cells: Sequence[Cell]) -> Places:
    places: Places = {}
    for i, cell in enumerate(cells):
        places.setdefault(cell, []).append(i)
    return places


def _shared(first: Places, second: Places) -> list[tuple[Cell, list[int], list[int]]]:
    return [(cell, first[cell], second[cell]) for cell in first if cell in second]


def contrast(
    pairing: Pairing,
    first: Float[np.ndarray, "trace quantity"],
    second: Float[np.ndarray, "other_trace quantity"],
    *,
    draws: int = 9999,
    seed: int = 0,
) -> list[Contrast]:
    """Compares quantities of traces between two groups.

    Args:
        pairing: The groups' pairing.
        first: The quantities of every trace of the first group.
        second: The same of the second group.
        draws: Number of permutations.
        seed: Seeds the permutations and the bootstrap.

    Returns:
        One contrast per quantity.
    """
    a, b = (
        _per_problem(pairing, values, side)
        for values, side in zip((first, second), SIDES, strict=True)
    )
    drawn_a = _draws(a, seed)
    drawn_b = _draws(b, seed if pairing.paired_by else seed + 1)
    if pairing.paired_by:
        times = np.bincount([s.problem for s in pairing.strata])  # strata of each problem
        values = [
            np.concatenate([first[s.first], second[s.second]]) / times[s.problem]
            for s in pairing.strata
        ]
        labels = [np.arange(len(s.first) + len(s.second)) < len(s.first) for s in pairing.strata]
    else:
        values, labels = [np.concatenate([a, b])], [np.arange(len(a) + len(b)) < len(a)]
    p_values, p_adjusted = permute_labels(values, labels, draws, seed)
    means_a, means_b = a.mean(0), b.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, drawn_ratio = means_a / means_b, drawn_a / drawn_b
    n = len(a) if pairing.paired_by else len(a) + len(b)
    columns = zip(
        _estimates(means_a, drawn_a, len(a)),
        _estimates(means_b, drawn_b, len(b)),
        _estimates(means_a - means_b, drawn_a - drawn_b, n),
        _estimates(ratio, drawn_ratio, n),
        p_values.tolist(),
        p_adjusted.tolist(),
        strict=True,
    )
    return [Contrast(*column) for column in columns]


def _per_problem(pairing: Pairing, values: Values, side: str) -> PerProblem:
    """The mean over each problem's strata, of the mean over the stratum's traces of a group."""
    by_problem: dict[int, list[np.ndarray]] = {}
    for stratum in pairing.strata:
        if places := getattr(stratum, side):
            by_problem.setdefault(stratum.problem, []).append(values[places].mean(0))
    return np.stack([np.mean(means, axis=0) for means in by_problem.values()])


def _draws(values: PerProblem, seed: int) -> Draws:
    """Means over bootstrap draws of problems; NaN for a single problem, which does not vary."""
    n = len(values)
    weights = resample(n, seed=seed) / n
    return weights @ values if n > 1 else np.full((len(weights), values.shape[1]), np.nan)


def _estimates(means: Float[np.ndarray, " quantity"], draws: Draws, n: int) -> list[Estimate]:
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):  # infinite ratios
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    known = np.isfinite(low) & np.isfinite(high) & draws.any(axis=0)
    return [
        Estimate(
            float(mean) if np.isfinite(mean) else None,
            float(low[i]) if known[i] else None,
            float(high[i]) if known[i] else None,
            n,
        )
        for i, mean in enumerate(means)
    ]


def permute_labels(
    values: Sequence[Float[np.ndarray, "_ quantity"]],
    labels: Sequence[Bool[np.ndarray, " _"]],
    draws: int,
    seed: int,
) -> tuple[Float[np.ndarray, " quantity"], Float[np.ndarray, " quantity"]]:
    """p-values of each quantity's difference between labels, permuted within each group of rows.

    The statistic is the sum over groups of the difference between the means of the labels.

    Args:
        values: Each group's rows of quantities.
        labels: Each group's labels; both labels occur in each group.
        draws: Number of permutations.
        seed: Seeds them.

    Returns:
        Two-sided p-values: for each quantity alone, and against all quantities.
    """
    rng = np.random.default_rng(seed)

    def weights(label: Bool[np.ndarray, " _"]) -> Float[np.ndarray, "draw _"]:
        observed = np.where(label, 1 / label.sum(), -1 / (~label).sum())
        shuffled = rng.permuted(np.tile(observed, (draws, 1)), axis=1)
        return np.concatenate([observed[None], shuffled])

    statistics = np.zeros((1 + draws, values[0].shape[1]))  # The first row is as observed.
    for start in range(0, len(values), BLOCK):
        block = slice(start, start + BLOCK)
        drawn = np.concatenate([weights(label) for label in labels[block]], axis=1)
        statistics += drawn @ np.concatenate(values[block])
    statistics = np.abs(statistics)
    statistics[statistics < 1e-12] = 0  # Rounding errors, if a quantity is the same everywhere.
    statistics /= np.sqrt((statistics[1:] ** 2).mean(0)).clip(min=1e-300)  # Equal weights.
    reached = statistics[0] * (1 - 1e-9)
    alone = (statistics[1:] >= reached).sum(0)
    together = (statistics[1:].max(1)[:, None] >= reached).sum(0)
    return (1 + alone) / (1 + draws), (1 + together) / (1 + draws)
