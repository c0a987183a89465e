"""Folds, shuffled labels and bootstrap draws that keep the rows of a problem together.

The steps of a trace, and several traces of one problem, are not independent of each other.
Everything drawn here is therefore drawn per problem.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Index = Int[np.ndarray, "row"]


def problem_index(groups: Sequence[Hashable] | None, rows: int) -> Index:
    """Numbers the problems 0, 1, ... in order of appearance, and returns the number of each row.

    Args:
        groups: The problem of each row; None if every row is a problem of its own.
        rows: Number of rows.

    Raises:
        ValueError: If there is not one group per row.
    """
    if groups is None:
        return np.arange(rows)
    if len(groups) != rows:
        raise ValueError(f"{len(groups)} groups for {rows} rows of states; expected one per row")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def split_into_folds(problem: Index, folds: int, rng: np.random.Generator) -> Index:
    """Draws the fold of every row.

    All rows of a problem are in the same fold. The numbers of problems per fold differ by at most
    one.

    Raises:
        ValueError: If there are fewer than 3 folds, or more folds than problems.
    """
    problems = int(problem.max()) + 1
    if not 3 <= folds <= problems:
        raise ValueError(
            f"folds={folds} with {problems} problems; expected at least 3 (one held out, one to "
            "choose the penalty on, one to fit) and at most as many as there are problems"
        )
    return (rng.permutation(problems) % folds)[problem]


def shuffled_rows(
    problem: Index, labels: Int[np.ndarray, "row"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw row"]:
    """Permutes the labels between problems.

    Returns:
        For each draw and row, the index of the row whose label this row receives.

    Raises:
        ValueError: If the rows of one problem have different labels.
    """
    problems, first = np.unique(problem, return_index=True)
    if (odd := labels != labels[first][problem]).any():
        row = int(np.flatnonzero(odd)[0])
        raise ValueError(
            f"rows {int(first[problem[row]])} and {row} are of one problem, but their labels "
            "differ; expected one label per problem, such as its gold answer"
        )
    orders = [rng.permutation(len(problems)) for _ in range(draws)]
    return first[np.array(orders, dtype=int).reshape(draws, len(problems))][:, problem]


def resample(n: int, draws: int = 2000, seed: int = 0) -> Int[np.ndarray, "draw unit"]:
    """How often each of n units occurs in each bootstrap draw of n units with replacement."""
    return np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=draws)


def bootstrap_counts(problem: Index, draws: int, seed: int) -> Int[np.ndarray, "draw row"]:
    """How often each row occurs in each bootstrap draw of problems."""
    return resample(int(problem.max()) + 1, draws, seed)[:, problem]


def percentiles(values: Float[np.ndarray, "draw"], confidence: float) -> tuple[float, float]:
    """The central interval of the draws; draws whose value is undefined (NaN) are ignored."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def require_finite(finite: Bool[np.ndarray, "row"], what: str) -> None:
    """Checks that all rows are finite.

    Args:
        finite: Whether each row is finite.
        what: What the rows hold, for the error message.

    Raises:
        ValueError: If a row is not finite; the message gives the number of the first such row.
    """
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"problem row {int(bad[0])} of {what} holds NaN or infinity ({len(bad)} of "
            f"{len(finite)} rows do); leave it out, or capture it in a wider dtype"
        )
