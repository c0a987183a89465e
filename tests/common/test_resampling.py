import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.common.resampling import (
    bootstrap_counts,
    percentiles,
    problem_index,
    resample,
    shuffled_rows,
    split_into_folds,
)

GROUPS = st.lists(st.integers(0, 9), min_size=12, max_size=40).filter(lambda g: len(set(g)) > 4)


def test_problems_are_numbered_in_order_of_appearance():
    assert problem_index(["b", "a", "b", "c"], 4).tolist() == [0, 1, 0, 2]
    assert problem_index(None, 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="2 groups for 3 rows"):
        problem_index(["a", "b"], 3)


@given(GROUPS, st.integers(3, 5), st.integers(0, 99))
def test_folds_keep_problems_together_and_are_even(groups, folds, seed):
    problem = problem_index(groups, len(groups))
    fold = split_into_folds(problem, folds, np.random.default_rng(seed))
    of_problem = {(p, f) for p, f in zip(problem.tolist(), fold.tolist(), strict=True)}
    assert len(of_problem) == problem.max() + 1
    sizes = np.bincount([f for _, f in of_problem], minlength=folds)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_out_of_range_are_refused(folds):
    with pytest.raises(ValueError, match=f"folds={folds} with 4 problems"):
        split_into_folds(np.arange(4), folds, np.random.default_rng(0))


@given(GROUPS, st.integers(0, 99))
def test_shuffles_hand_labels_from_problem_to_problem(groups, seed):
    problem = problem_index(groups, len(groups))
    labels = problem * 10
    for rows in shuffled_rows(problem, labels, 3, np.random.default_rng(seed)):
        handed = {(p, label) for p, label in zip(problem, labels[rows], strict=True)}
        assert len(handed) == problem.max() + 1  # still one label a problem
        assert {label for _, label in handed} == set(labels)  # none lost, none doubled


def test_two_labels_of_one_problem_are_refused():
    with pytest.raises(ValueError, match="rows 1 and 3 are of one problem"):
        shuffled_rows(np.array([0, 1, 2, 1]), np.array([5, 6, 7, 8]), 1, np.random.default_rng(0))


def test_draws_are_bootstrap_draws():
    counts = resample(7, draws=50)
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    assert np.array_equal(counts, resample(7, draws=50))
    assert not np.array_equal(counts, resample(7, draws=50, seed=1))


def test_a_bootstrap_draws_whole_problems():
    problem = np.array([0, 0, 1, 2, 2, 2])
    counts = bootstrap_counts(problem, 200, seed=1)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, 0] + counts[:, 2] + counts[:, 3] == 3).all()
    assert np.unique(counts[:, 0]).size > 2


def test_percentiles_leave_out_undefined_draws():
    values = np.append(np.arange(101.0), np.nan)
    assert percentiles(values, 0.9) == pytest.approx((5.0, 95.0))
