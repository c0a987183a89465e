"""Score intervals: their formulas, and how often they hold the truth, computed exactly."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from experiments.coverage import coverage_of_difference, coverage_of_share
from mi_lens.common.intervals import estimate_difference, estimate_share
from mi_lens.common.statistics import Estimate


def outcomes(better: int, worse: int, same: int) -> list[float]:
    return [1.0] * better + [-1.0] * worse + [0.0] * same


def ends(estimates: list[Estimate]) -> np.ndarray:
    """The lower and the upper ends of all intervals."""
    return np.array([(e.low, e.high) for e in estimates], dtype=float).T


@given(right=st.integers(0, 80), wrong=st.integers(0, 80), confidence=st.floats(0.5, 0.999))
def test_shares_of_single_trials_have_wilsons_interval(right, wrong, confidence):
    if right + wrong < 2:
        return
    estimate = estimate_share([1.0] * right + [0.0] * wrong, confidence=confidence)
    wilson = binomtest(right, right + wrong).proportion_ci(confidence, method="wilson")
    assert estimate.low == pytest.approx(wilson.low, abs=1e-12)
    assert estimate.high == pytest.approx(wilson.high, abs=1e-12)


@given(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 40)))
def test_the_ends_of_a_difference_solve_tangos_equation(counts):
    """Independent: the most likely share that gets worse is found by a search, not by a formula."""
    better, worse, same = counts
    n = sum(counts)
    if n < 2 or better + worse == 0:
        return
    estimate = estimate_difference(outcomes(*counts))
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= (better - worse) / n <= estimate.high
    for end in (estimate.low, estimate.high):
        if abs(end) > 0.999:
            continue
        shares = np.linspace(max(0.0, -end), (1 - end) / 2, 400_001)[1:-1]
        with np.errstate(divide="ignore"):
            likely = worse * np.log(shares) if worse else np.zeros_like(shares)
            likely = likely + (better * np.log(shares + end) if better else 0.0)
            likely = likely + (same * np.log(1 - 2 * shares - end) if same else 0.0)
        q = shares[np.argmax(likely)]
        score = (better - worse - n * end) / math.sqrt(n * (2 * q + end - end**2))
        assert abs(score) == pytest.approx(norm.isf(0.025), rel=2e-3)


def test_no_change_has_its_exact_bound():
    estimate = estimate_difference([0.0] * 30)
    assert (estimate.mean, estimate.n) == (0.0, 30)
    assert estimate.high == pytest.approx(binomtest(0, 30).proportion_ci(0.95).high)
    assert estimate.high is not None
    assert estimate.low == -estimate.high


@pytest.mark.parametrize(
    ("n", "p"), list(itertools.product([10, 30, 60, 200], [0.02, 0.1, 0.5, 0.98]))
)
def test_coverage_of_shares(n, p):
    ours, bootstrap = coverage_of_share(n, p)
    assert 0.92 < ours <= 1
    if (n, p) == (60, 0.98):
        assert bootstrap < 0.75  # what it replaces


@pytest.mark.parametrize("n", [30, 60])
@pytest.mark.parametrize(
    ("better", "worse"), [(0.01, 0.01), (0.02, 0.0), (0.05, 0.02), (0.1, 0.1), (0.3, 0.05)]
)
def test_coverage_of_differences(n, better, worse):
    ours, bootstrap = coverage_of_difference(n, better, worse)
    assert 0.94 < ours <= 1
    if better - worse == 0.02:
        assert bootstrap < 0.75


@pytest.mark.parametrize(("a", "b"), [(2, 2), (20, 0.5), (0.3, 0.3)])
def test_coverage_with_several_seeds(a, b):
    """Problems of different difficulty, eight seeds each."""
    rng = np.random.default_rng(0)
    shares = (rng.binomial(8, rng.beta(a, b, (1500, 30))) / 8).tolist()
    estimates = [estimate_share(row, trials=8) for row in shares]
    low, high = ends(estimates)
    held = np.mean((low <= a / (a + b)) & (a / (a + b) <= high))
    assert 0.93 < held < 0.98
    wider = [estimate_share(row) for row in shares]  # as if each problem had one seed
    assert np.mean(high - low) <= np.mean(np.subtract(*ends(wider)[::-1]))
    changes = (rng.binomial(8, rng.beta(a, b, (1500, 30))) / 8 - np.array(shares)).tolist()
    low, high = ends([estimate_difference(row, trials=8) for row in changes])
    held = np.mean((low <= 0) & (high >= 0))
    assert 0.93 < held <= 0.985


def test_few_units_and_bad_values():
    assert estimate_share([]).mean is None
    assert estimate_difference([0.5]).low is None
    for wrong in ([0.2, 1.5], [math.nan, 0.0], [-0.1, 0.0]):
        with pytest.raises(ValueError, match=r"unit \d is .*; expected shares of trials, from 0"):
            estimate_share(wrong)
    with pytest.raises(ValueError, match=r"unit 1 is -2.0; expected .* from -1 to 1"):
        estimate_difference([0.0, -2.0])
    assert estimate_difference([1.0, 1.0]).high == 1.0
