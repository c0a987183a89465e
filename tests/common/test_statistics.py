import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import floats
from scipy.stats import spearmanr
from scipy.stats import t as student

from mi_lens.common.statistics import (
    EXACT_PAIRS,
    Estimate,
    estimate_crossed,
    estimate_mean,
    mean_interval,
    paired_power,
    problems_needed,
    sign_flip,
    spearman,
)


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


@given(changed=floats(0.002, 1.0), share=floats(0.02, 1.0), power=floats(0.1, 0.99))
@settings(deadline=None, max_examples=40)
def test_the_problems_needed_have_the_power_asked_for(changed, share, power):
    gain = changed * share
    needed = problems_needed(gain, changed, power=power)
    if needed * changed <= EXACT_PAIRS:  # where the power is first reached, on its way up
        assert paired_power(needed, gain, changed) >= power
        assert paired_power(needed - 1, gain, changed) < power
    elif needed * changed < 5000:  # beyond, the exact power takes long
        assert paired_power(needed, gain, changed) == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize(
    ("mended", "broken", "problems"),
    [(61, 60, 500), (132, 131, 1319), (5001, 4999, 10_000), (1, 0, 10_000), (800, 600, 10_000)],
)
def test_the_problems_needed_take_few_evaluations(mended, broken, problems, monkeypatch):
    asked = []

    def counted(n, gain, changed, **settings):
        asked.append(n * changed)
        return paired_power(n, gain, changed, **settings)

    monkeypatch.setattr("mi_lens.common.statistics.paired_power", counted)
    problems_needed((mended - broken) / problems, (mended + broken) / problems)
    assert len(asked) < 30
    assert max(asked, default=0) < 200  # pairs: the size of one evaluation


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"power": 1.0}, "power=1.0"),
        ({"power": 0.0}, "power=0.0"),
        ({"power": math.nan}, "power=nan"),
        ({"level": 0.0}, "level=0.0"),
        ({"level": 1.0}, "level=1.0"),
        ({"gain": math.nan}, "gain=nan"),
        ({"changed": math.nan}, "changed=nan"),
        ({"gain": 0.0}, "gain=0"),
    ],
)
def test_what_no_number_of_problems_can_show_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        problems_needed(**({"gain": 0.1, "changed": 0.2} | wrong))


def test_undefined_differences_have_no_p_value():
    with pytest.raises(ValueError, match="difference 0 is nan"):
        sign_flip([math.nan, 1.0])


@pytest.mark.parametrize(
    ("draws", "of_draw", "of_problem", "rest"),
    [(5, 1.0, 1.0, 1.0), (5, 0.1, 1.0, 1.0), (5, 1.0, 3.0, 3.0), (15, 0.2, 1.0, 1.0)],
)
def test_a_crossed_interval_holds_the_mean_over_draws_and_problems(
    draws: int, of_draw: float, of_problem: float, rest: float
):
    rng = np.random.default_rng(0)
    held, of_problems = [], []
    for _ in range(400):
        table = (
            2.0
            + of_draw * rng.normal(size=(draws, 1))
            + of_problem * rng.normal(size=(1, 100))
            + rest * rng.normal(size=(draws, 100))
        )
        estimate = estimate_crossed(table)
        assert estimate.low is not None
        assert estimate.high is not None
        held.append(estimate.low <= 2.0 <= estimate.high)
        low, high = mean_interval(table.mean(0), draws=300)
        of_problems.append(low <= 2.0 <= high)
    # Binomial(400, .95): 363 to 394 but for one time in a hundred.
    assert 0.905 <= np.mean(held) <= 0.985
    if of_draw == 1.0 and rest == 1.0:  # As long as draws are held fixed, it is rarely held.
        assert np.mean(of_problems) < 0.6


def test_a_crossed_estimate_by_hand():
    table = np.array([[1.0, 2.0, 6.0], [3.0, 2.0, 4.0]])
    estimate = estimate_crossed(table)
    # Means of draws 3 and 3; of problems 2, 2 and 5: sums of squares 0, 12 and 4.
    assert (estimate.mean, estimate.n) == (3.0, 3)
    # The variance is not below that of problems alone: 12 / 2 = 6, over 6 cells.
    freedom = 6.0**2 / (6.0**2 / 2 + 2.0**2 / 2)
    assert estimate.high == pytest.approx(3.0 + student.ppf(0.975, freedom))
    assert estimate.low == pytest.approx(3.0 - student.ppf(0.975, freedom))
    assert estimate_crossed(np.ones((2, 3))) == Estimate(1.0, 1.0, 1.0, 3)


def test_one_draw_tells_nothing_of_others():
    with pytest.raises(ValueError, match="1 draws and 9 problems; expected 2 or more of both"):
        estimate_crossed(np.zeros((1, 9)))
    with pytest.raises(ValueError, match="draw 1, problem 2 is nan"):
        estimate_crossed(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]]))
