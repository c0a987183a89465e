from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from mi_lens.information.per_trace.controls import Calibration
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peaks import find_peaks, peak_statistics
from mi_lens.problems.problem import Problem
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.config import AnalyzeConfig
from mi_lens.runs.paired_analyses import compare_peaks, quantities
from mi_lens.traces.trace import Trace

HOOK = "blocks.1.hook_resid_post"


def measurement(mi, seed=0, calibrated=True):
    rng = np.random.default_rng(seed)
    mean, std = 0.9 * mi, np.full(len(mi), 0.1)
    p = rng.random(len(mi))
    calibration = Calibration(9, mi, mean, std, (mi - mean) / std, p, p, p)
    return Measurement(mi, calibration if calibrated else None, {}, {"answer permuted": mi / 2}, 0)


def run(trajectories, hook=HOOK, calibrated=True, **settings):
    """A run with a trajectory for every problem id; None for a trace too short."""
    traces = tuple(
        Trace(f"t{i}", "m", "p", (1,), (2,) * 9, "x", "eos", problem=Problem(i, f"What is {i}?", i))
        for i in trajectories
    )
    measurements = {
        trace.id: {hook: measurement(mi, k, calibrated)}
        for k, (trace, mi) in enumerate(zip(traces, trajectories.values(), strict=True))
        if mi is not None
    }
    config = AnalyzeConfig(out=Path("somewhere"), **settings)
    return Analysis(config, traces, (), (hook,), measurements, {})


def trajectories(n, seed, steps=40):
    rng = np.random.default_rng(seed)
    return {str(i): rng.lognormal(size=steps) for i in range(n)}


def test_agrees_with_a_plain_evaluation():
    ours, theirs = trajectories(12, 0), trajectories(12, 1)
    backwards = dict(reversed(theirs.items()))
    comparison = compare_peaks(run(ours), run(backwards), HOOK)
    assert comparison.problems == tuple(ours)
    assert comparison.left_out == ()
    assert comparison.settings == {}
    for name, value in (
        ("mean MI", np.mean),
        ("std of MI", np.std),
        ("peaks", lambda mi: len(find_peaks(mi))),
        ("AOM", lambda mi: peak_statistics(mi, find_peaks(mi)).aom),
        ("MI / permuted answer", lambda mi: 2.0),
        ("MI / other answers", lambda mi: 1 / 0.9),
        ("specific part", lambda mi: np.mean(0.1 * mi / 0.1)),
    ):
        quantity = comparison.quantities[name]
        pairs = [(value(ours[i]), value(theirs[i])) for i in ours]
        a, b = zip(*(pair for pair in pairs if None not in pair), strict=True)
        np.testing.assert_allclose(quantity.reasoner, a, rtol=1e-12)
        np.testing.assert_allclose(quantity.base, b, rtol=1e-12)
        difference = np.subtract(quantity.reasoner, quantity.base)
        assert quantity.difference.mean == pytest.approx(difference.mean(), abs=1e-12)
        moved = difference[difference != 0]
        expected = np.asarray(wilcoxon(moved))[1] if len(moved) else 1.0
        assert quantity.p_value == pytest.approx(expected)
        assert quantity.p_value <= quantity.p_adjusted <= 1
        assert quantity.in_units_of_mi == (name in ("mean MI", "std of MI"))


@given(st.integers(0, 10**6), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_only_two_quantities_have_the_unit_of_mi(seed, unit):
    (mi,) = trajectories(1, seed).values()
    before, after = (
        quantities(measurement(mi, calibrated=False)),
        quantities(measurement(unit * mi, calibrated=False)),
    )
    for name, value in before.items():
        factor = unit if name in ("mean MI", "std of MI") else 1
        if value is None:
            assert after[name] is None
        else:
            assert after[name] == pytest.approx(factor * value, rel=1e-9)


def test_a_shift_is_found_and_none_is_not():
    base = trajectories(30, 0)
    more = {i: 1.5 * mi for i, mi in base.items()}
    quantities = compare_peaks(run(more), run(base), HOOK).quantities
    assert quantities["mean MI"].p_adjusted < 0.001
    low = quantities["mean MI"].difference.low
    assert low is not None
    assert low > 0
    assert quantities["std / mean"].difference.mean == pytest.approx(0, abs=1e-12)
    same = compare_peaks(run(base), run(base), HOOK).quantities
    assert {quantity.p_value for quantity in same.values()} == {1.0}


def test_what_cannot_be_compared_is_left_out():
    ours, theirs = trajectories(6, 0), trajectories(6, 1)
    flat = np.ones(40)  # No peaks, so no AOM.
    ours, theirs = ours | {"0": None, "1": flat}, theirs | {"9": flat}
    comparison = compare_peaks(run(ours), run(theirs, calibrated=False), HOOK)
    assert set(comparison.left_out) == {"0", "9"}
    assert comparison.problems == ("1", "2", "3", "4", "5")
    assert comparison.quantities["AOM"].difference.n == 4
    assert comparison.quantities["mean MI"].difference.n == 5
    assert "specific part" not in comparison.quantities


def test_other_settings_are_told():
    mi_by_problem = trajectories(3, 0)
    other = run(mi_by_problem, "blocks.2.hook_resid_post", model="pocket-base", sigma=10.0)
    comparison = compare_peaks(run(mi_by_problem), other, HOOK, "blocks.2.hook_resid_post")
    assert comparison.settings == {"sigma": (50.0, 10.0)}
    assert comparison.hook_names == (HOOK, "blocks.2.hook_resid_post")


def test_errors():
    mi_by_problem = trajectories(3, 0)
    with pytest.raises(ValueError, match=r"'blocks\.7\.hook_z' was not read by the reasoner's run"):
        compare_peaks(run(mi_by_problem), run(mi_by_problem), "blocks.7.hook_z")
    others = {f"other {i}": mi for i, mi in mi_by_problem.items()}
    with pytest.raises(ValueError, match="no problem has peaks in both runs"):
        compare_peaks(run(mi_by_problem), run(others), HOOK)
    again = replace(run(mi_by_problem), measurements={})
    with pytest.raises(ValueError, match="no problem has peaks in both runs"):
        compare_peaks(again, run(mi_by_problem), HOOK)
