from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.evaluation.two_groups import contrast, pair, permute_labels
from mi_lens.traces.trace import Trace


def trace(question, model="m", seed=0):
    return Trace.from_text(None, question, "So.", model=model, seed=seed)


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_traces_of_the_same_problem_and_model_are_paired():
    first = [trace("a", "m"), trace("a", "n"), trace("b", "m"), trace("c", "n")]
    second = [trace("A?", "n"), trace("a", "m"), trace("b", "m", 1), trace("b", "m", 2)]
    pairing = pair(first, second)
    assert pairing.paired_by == "problem and model"
    found = {(s.problem, tuple(s.first), tuple(s.second)) for s in pairing.strata}
    assert found == {(0, (0,), (1,)), (0, (1,), (0,)), (1, (2,), (2, 3))}
    assert (pairing.problems, pairing.left_out) == ((2, 2), (1, 0))


def test_traces_of_other_models_are_paired_by_problem():
    pairing = pair([trace("a", "m"), trace("b", "m")], [trace("a", "n"), trace("a", "o")])
    assert pairing.paired_by == "problem"
    assert [(s.first, s.second) for s in pairing.strata] == [([0], [0, 1])]
    assert (pairing.problems, pairing.left_out) == ((1, 1), (1, 0))
    # The same models, but no problem of the same model.
    crossed = pair([trace("a", "m"), trace("b", "n")], [trace("a", "n"), trace("b", "m")])
    assert (crossed.paired_by, crossed.problems) == ("problem", (2, 2))


def test_groups_without_a_shared_problem_are_not_paired():
    pairing = pair([trace("a"), trace("a", seed=1), trace("b")], [trace("c")])
    assert pairing.paired_by is None
    assert [(s.first, s.second) for s in pairing.strata] == [([0, 1], []), ([2], []), ([], [0])]
    assert (pairing.problems, pairing.left_out) == ((2, 1), (0, 0))
    (found,) = contrast(pairing, column(1, 3, 6), column(1), draws=99)
    assert (found.first.mean, found.second.mean, found.difference.mean) == (4, 1, 3)
    assert (found.first.n, found.second.n, found.second.low, found.difference.low) == (
        *(2, 1, None, None),
    )


def test_means_are_over_problems():
    first = [trace("a", "m"), trace("a", "m", 1), trace("a", "n"), trace("b", "m")]
    second = [trace("a", "m"), trace("a", "n"), trace("b", "m")]
    pairing = pair(first, second)
    (found,) = contrast(pairing, column(0, 2, 5, 10), column(1, 1, 4), draws=999)
    assert found.first.mean == pytest.approx(((1 + 5) / 2 + 10) / 2)
    assert found.second.mean == pytest.approx((1 + 4) / 2)
    assert found.difference.mean == pytest.approx(6.5 - 2.5)
    assert found.ratio.mean == pytest.approx(6.5 / 2.5)
    assert found.difference.n == 2
    # Of two problems' differences, 2 and 6, draws give the one, the other, or their mean.
    assert (found.difference.low, found.difference.high) == (2, 6)


def test_zeros_have_no_intervals():
    groups = [[trace(str(i)) for i in range(6)]] * 2
    values = np.arange(6.0)[:, None]
    (found,) = contrast(pair(*groups), values, np.zeros((6, 1)), draws=99)
    assert found.second.mean == 0
    assert found.second.low is None
    assert found.ratio.mean is None
    assert found.difference.low == found.first.low
    assert found.difference.low is not None


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("mn"), st.integers(0, 9)), min_size=1
    ),
    st.randoms(use_true_random=False),
)
def test_a_group_does_not_differ_from_itself_in_any_order(rows, random):
    shuffled = random.sample(rows, len(rows))
    groups = [[trace(q, m, i) for i, (q, m, _) in enumerate(r)] for r in (rows, shuffled)]
    values = [np.array([[v, 1.0] for *_, v in r]) for r in (rows, shuffled)]
    for found in contrast(pair(*groups), *values, draws=50):
        assert found.difference.mean == pytest.approx(0, abs=1e-12)
        assert found.first.mean == pytest.approx(found.second.mean)
        assert found.p_value == 1
        assert found.p_adjusted == 1


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_traces_does_not_matter(random):
    rng = np.random.default_rng(random.randrange(1000))
    names = [(q, m) for q in "abcd" for m in "mn"]
    first, second = rng.random((2, 8, 2))
    order = [*range(8)]
    random.shuffle(order)
    here = [trace(*name) for name in names]
    there = [trace(*name, seed=1) for name in names]
    plain = contrast(pair(here, there), first, second, draws=50)
    other = contrast(pair([here[i] for i in order], there), first[order], second, draws=50)
    for a, b in zip(plain, other, strict=True):
        assert a.difference.mean == pytest.approx(b.difference.mean)
        assert a.first.mean == pytest.approx(b.first.mean)


def test_intervals_hold_the_difference():
    """Problems vary far more than the groups differ, and pairing takes that out."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        hard = rng.normal(0, 50, 30)
        a, b = hard + 3 + rng.normal(0, 1, 30), hard + rng.normal(0, 1, 30)
        pairing = pair([trace(str(i)) for i in range(30)], [trace(str(i)) for i in range(30)])
        (found,) = contrast(pairing, a[:, None], b[:, None], draws=1)
        assert found.difference.low is not None
        assert found.difference.high is not None
        assert found.difference.high - found.difference.low < 3
        hits += found.difference.low <= 3 <= found.difference.high
    assert 178 <= hits <= 199  # .95 with four standard errors, a little less for the bootstrap


def test_p_values_are_those_of_all_relabellings():
    rng = np.random.default_rng(0)
    labels = [np.array([True, False, False, False]), np.array([True, True, False])]
    rates = [rng.random((4, 3)), rng.random((3, 3))]

    def difference(choice):
        sides = []
        for rate, chosen in zip(rates, choice, strict=True):
            right = np.isin(np.arange(len(rate)), chosen)
            sides.append(rate[right].mean(0) - rate[~right].mean(0))
        return abs(np.sum(sides, axis=0))

    everything = np.array(
        [difference(c) for c in product(combinations(range(4), 1), combinations(range(3), 2))]
    )
    observed = difference(([0], [0, 1]))
    spread = np.sqrt((everything**2).mean(0))
    alone = (everything >= observed - 1e-12).mean(0)
    together = ((everything / spread).max(1)[:, None] >= observed / spread - 1e-12).mean(0)
    p_values, p_adjusted = permute_labels(rates, labels, 40_000, seed=1)
    np.testing.assert_allclose(p_values, alone, atol=0.02)
    np.testing.assert_allclose(p_adjusted, together, atol=0.02)
    assert (p_adjusted >= p_values).all()


def test_many_groups_of_rows_are_permuted_as_few_are():
    """They are taken in blocks; p-values of a paired difference are those of sign flips."""
    rng = np.random.default_rng(3)
    values = [rng.random((2, 1)) for _ in range(150)]
    labels = [np.array([True, False])] * 150
    differences = np.array([float(rows[0, 0] - rows[1, 0]) for rows in values])
    flipped = rng.choice([-1, 1], (20_000, 150)) @ differences
    expected = (np.abs(flipped) >= abs(differences.sum())).mean()
    assert permute_labels(values, labels, 20_000, 0)[0][0] == pytest.approx(expected, abs=0.02)


def test_errors():
    with pytest.raises(ValueError, match="groups of 0 and 1 traces"):
        pair([], [trace("a")])
    prompt_only = replace(trace("What?"), problem=None)
    assert pair([prompt_only], [trace("what")]).paired_by == "problem and model"
