import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from mi_lens.information.per_trace.peak_rules import TopK
from mi_lens.information.per_trace.remaining import hold, remaining

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=50)
def test_what_is_held_is_another_implementations_isotonic_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covariate = rng.integers(0, 12, 40).astype(float)  # with ties
    for mi in (covariate + rng.normal(size=40), -covariate + rng.normal(size=40)):
        fits = [
            IsotonicRegression(increasing=rises).fit_transform(covariate, mi)
            for rises in (True, False)
        ]
        best = min(fits, key=lambda fit: np.square(mi - fit).sum())
        np.testing.assert_allclose(hold(mi, covariate), mi - best, atol=1e-9)


@given(seeds)
@settings(max_examples=50)
def test_nothing_remains_of_a_monotone_function_and_all_of_a_constant_one(seed: int) -> None:
    covariate = np.random.default_rng(seed).normal(size=30)
    for mi in (np.exp(covariate), -(covariate**3)):
        np.testing.assert_allclose(hold(mi, covariate), 0, atol=1e-9)
        np.testing.assert_allclose(hold(mi, np.zeros(30)), mi - mi.mean())


def test_remaining_over_traces() -> None:
    rng = np.random.default_rng(0)
    explanations, trajectories = [], []
    for _ in range(20):
        cause, noise = rng.normal(size=200), rng.normal(size=200)
        mi = cause + 0.1 * noise
        mi[[3, 50]] += 20.0  # two peaks that the cause does not give
        explanations.append({"cause": cause, "other": noise[::-1].copy()})
        trajectories.append(mi)
    left = remaining(trajectories, explanations, TopK(2))
    assert (left["other"].peaks.mean or 0) > 0.9
    assert (left["cause"].peaks.mean or 0) > 0.9  # a fit's last step may take a peak with it
    cause, other = left["cause"].variance, left["other"].variance
    assert cause.mean is not None
    assert other.mean is not None
    assert cause.high is not None
    assert cause.high < (left["cause"].chance.low or 0)
    assert other.mean == pytest.approx(left["other"].chance.mean, abs=0.05)
    explained = remaining([e["cause"] for e in explanations], explanations, TopK(2))["cause"]
    assert explained.variance.mean == pytest.approx(0)


def test_a_constant_trajectory_counts_nowhere() -> None:
    left = remaining([np.ones(9)], [{"position": np.arange(9.0)}])["position"]
    assert (left.variance.mean, left.variance.n, left.peaks.n) == (None, 0, 0)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="4 steps of MI and 3 of a covariate"):
        hold(np.arange(4.0), np.arange(3.0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        hold(np.arange(4.0), np.array([0, np.nan, 1, 2]))
