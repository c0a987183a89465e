"""Problems as the unit of chance: folds, shuffled labels and bootstrap draws never split a problem.

Steps of a trace and repeated traces of a problem are not independent of one another, so whatever
is drawn here is drawn for whole problems (or for traces, where each is of its own problem).
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Index = Int[np.ndarray, "row"]


def problem_index(groups: Sequence[Hashable] | None, rows: int) -> Index:
    """For every row the number of its problem, 0, 1, ... in order of appearance.

    Args:
        groups: The problem of each row; None where every row is a problem of its own.
        rows: How many rows there are.

    Raises:
        ValueError: If groups and rows differ in number.

    """
    if groups is None:
        return np.arange(rows)
    if len(groups) != rows:
        raise ValueError(f"{len(groups)} groups for {rows} rows of states; expected one per row")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def split_into_folds(problem: Index, folds: int, rng: np.random.Generator) -> Index:
    """For every row its fold; a problem's rows share one, and folds are as even as can be.

    Raises:
        ValueError: If there are fewer than 3 folds, or more folds than problems.

    """
    problems = int(problem.max()) + 1
    if not 3 <= folds <= problems:
        raise ValueError(
            f"folds={folds} with {problems} problems; expected 3 (one held out, one to choose the "
            "penalty on, one to fit) to as many as there are problems"
        )
    return (rng.permutation(problems) % folds)[problem]


def shuffled_rows(
    problem: Index, labels: Int[np.ndarray, "row"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draw row"]:
    """Rows whose labels each row gets when labels change hands between problems.

    Raises:
        ValueError: If a problem has two labels: which one it would hand on is not defined.

    """
    problems, first = np.unique(problem, return_index=True)
    if (odd := labels != labels[first][problem]).any():
        row = int(np.flatnonzero(odd)[0])
        raise ValueError(
            f"rows {int(first[problem[row]])} and {row} are of one problem with different labels; "
            "expected one label for each problem, such as its gold answer"
        )
    orders = [rng.permutation(len(problems)) for _ in range(draws)]
    return first[np.array(orders, dtype=int).reshape(draws, len(problems))][:, problem]


def resample(n: int, draws: int = 2000, seed: int = 0) -> Int[np.ndarray, "draw unit"]:
    """How often each of n units stands in each bootstrap draw, n of them with replacement."""
    return np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=draws)


def bootstrap_counts(problem: Index, draws: int, seed: int) -> Int[np.ndarray, "draw row"]:
    """How often each row stands in each draw of problems: rows of a problem come together."""
    return resample(int(problem.max()) + 1, draws, seed)[:, problem]


def percentiles(values: Float[np.ndarray, "draw"], confidence: float) -> tuple[float, float]:
    """The central interval of draws; draws that define no value (NaN) are left out."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def require_finite(finite: Bool[np.ndarray, "row"], what: str) -> None:
    """Refuses rows that are not finite, by number.

    Raises:
        ValueError: Naming the first such row.

    """
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"problem row {int(bad[0])} of {what} holds NaN or infinity ({len(bad)} of "
            f"{len(finite)} rows do); leave it out, or capture it in a wider dtype"
        )
