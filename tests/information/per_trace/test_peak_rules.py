import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.information.per_trace.peak_rules import (
    IQR,
    MAD,
    PAPER_RULE,
    RULES,
    TopK,
    parse_peak_rule,
)
from mi_lens.information.per_trace.peaks import find_peaks, peak_statistics, top_k_peaks

trajectories = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60)
rules = st.one_of(
    st.builds(IQR, st.floats(0, 5)),
    st.builds(MAD, st.floats(0, 5)),
    st.builds(TopK, st.integers(1, 70)),
)


def test_the_median_absolute_deviation_by_hand():
    mi = [1.0, 2.0, 3.0, 4.0, 100.0]
    # Median 3, absolute deviations 2 1 0 1 97: their median is 1.
    assert MAD(1.0).threshold(np.array(mi)) == pytest.approx(3 + 1.4826)
    assert find_peaks(mi, MAD(1.0)).tolist() == [4]
    assert find_peaks(mi, MAD(0.5)).tolist() == [3, 4]


def test_of_normal_values_it_is_the_standard_deviation():
    values = 7 * np.random.default_rng(0).standard_normal(200_000)
    assert MAD(1.0).threshold(values) - np.median(values) == pytest.approx(7, rel=0.01)


def test_the_paper_is_the_default_and_stands_once():
    mi = np.random.default_rng(1).exponential(size=200)
    assert IQR() == PAPER_RULE
    assert find_peaks(mi).tolist() == find_peaks(mi, IQR(tau=1.5)).tolist() != []
    assert top_k_peaks(mi).tolist() == find_peaks(mi, TopK(20)).tolist()


@given(trajectories, rules)
def test_a_rule_is_its_threshold(mi, rule):
    values = np.array(mi)
    peaks = find_peaks(values, rule)
    assert peaks.tolist() == sorted(set(peaks.tolist()))
    threshold = rule.threshold(values)
    assert (values[peaks] >= threshold).all()
    if not isinstance(rule, TopK):
        assert peaks.tolist() == np.flatnonzero(values > threshold).tolist()
    peak_statistics(values, peaks)


@given(rules)
def test_a_rule_is_written_as_the_call_that_makes_it(rule):
    assert parse_peak_rule(repr(rule)) == rule


def test_every_rule_tells_what_it_is():
    for kind in RULES.values():
        rule = kind()
        assert rule.label
        assert rule.description.split()[0] in ("a", "one")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Median(3)", r"peak rule 'Median': expected one of \['IQR', 'MAD', 'TopK'\]"),
        ("IQR(1, 2)", "at most 1 arguments"),
        ("IQR(sigma=1)", "unknown .'sigma'."),
        ("IQR(-1)", "tau=-1: expected"),
        ("MAD(-1)", "k=-1: expected"),
        ("TopK(0)", "k=0: expected"),
        ("IQR", "expected a call"),
        ("__import__('os')", "peak rule '__import__'"),
    ],
)
def test_bad_rules(text, message):
    with pytest.raises(ValueError, match=message):
        parse_peak_rule(text)
