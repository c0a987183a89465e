import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.common.by_problem import mean_of_pairs, mean_over_problems


def test_mean_over_problems_weighs_problems_alike():
    estimate = mean_over_problems([("a", 1.0), ("a", 0.0), ("b", -1.0)])
    assert estimate.mean == pytest.approx((0.5 - 1) / 2)
    assert estimate.n == 2
    assert mean_over_problems([]).mean is None


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12
    )
)
def test_pairs_agree_with_draws_one_by_one(rows):
    values, problems = [row[0] for row in rows], [(row[1], row[2]) for row in rows]
    estimate = mean_of_pairs(values, problems, draws=50)
    assert estimate.mean == pytest.approx(np.mean(values))
    names = list(dict.fromkeys(name for pair in problems for name in pair))
    assert estimate.n == len(names)
    if len(names) < 2:
        assert estimate.low is None
        return
    counts = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), 50)
    means = []
    for drawn in counts:
        times = dict(zip(names, drawn, strict=True))
        weights = [times[a] * (times[b] if a != b else 1) for a, b in problems]
        if sum(weights):
            means.append(np.average(values, weights=weights))
    expected = np.quantile(means, [0.025, 0.975])
    assert [estimate.low, estimate.high] == pytest.approx(expected.tolist(), abs=1e-9)


def test_pairs_within_problems_are_a_bootstrap_of_problems():
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    estimate = mean_of_pairs(values.tolist(), [(i, i) for i in range(40)])
    plain = mean_over_problems(zip(range(40), values, strict=True))
    expected = pytest.approx([plain.mean, plain.low, plain.high])
    assert [estimate.mean, estimate.low, estimate.high] == expected


def test_a_problem_in_many_pairs_widens_the_interval():
    """The controls are all of one problem, whose luck all differences share."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        of_problem = rng.normal(size=30)
        pairs = [(i, (i + 1) % 30) for i in range(30)] + [(i, (i + 7) % 30) for i in range(30)]
        values = [of_problem[a] + 0.3 * of_problem[b] for a, b in pairs]
        estimate = mean_of_pairs(values, pairs, draws=400)
        assert estimate.low is not None
        assert estimate.high is not None
        inside += estimate.low <= 0 <= estimate.high
    assert inside >= 53


def test_errors():
    with pytest.raises(ValueError, match="2 values and 1 pairs"):
        mean_of_pairs([1.0, 2.0], [(0, 1)])
    with pytest.raises(ValueError, match="pair 1 is nan"):
        mean_of_pairs([1.0, float("nan")], [(0, 1), (1, 2)])
