import numpy as np
import pytest
from scipy.stats import spearmanr

from mi_lens.common.statistics import estimate_mean, mean_interval, spearman


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(400, 60))
    covered = 0
    for row in values:
        estimate = estimate_mean(row.tolist())
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 1 <= estimate.high
    # Percentile intervals of a skewed mean fall a little short of 95 %.
    assert 0.89 < covered / 400 < 0.98


def test_an_interval_for_every_point():
    values = np.random.default_rng(0).normal(size=(30, 4, 2))
    intervals = mean_interval(values)
    assert intervals.shape == (2, 4, 2)
    np.testing.assert_allclose(intervals[:, 3, 1], mean_interval(values[:, 3, 1]))


def test_spearman():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    assert spearman(a, b) == pytest.approx(float(spearmanr(a, b)[0]))  # type: ignore[arg-type]
    assert spearman(b, np.exp(b)) == pytest.approx(1)


@pytest.mark.parametrize("values", [np.ones(5), np.array([1.0, np.nan, 2.0, 3.0, 4.0])])
def test_spearman_is_nan_where_it_is_not_defined(values):
    assert np.isnan(spearman(np.arange(5.0), values))
    assert np.isnan(spearman(values, np.arange(5.0)))


def test_few_units():
    assert estimate_mean([]).mean is None
    estimate = estimate_mean([3.0])
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (3.0, None, None, 1)
    assert estimate_mean([2.0, 2.0]).low == pytest.approx(2.0)
