"""What the intervals of a comparison say: better, worse, equivalent or open."""

import pytest
from scipy.stats import norm

from mi_lens.evaluation.comparison import GAIN, Arm, compare
from mi_lens.evaluation.graded_traces import passes_of
from mi_lens.evaluation.result import Result
from mi_lens.traces.trace import Trace


def arm(name, correct):
    results = tuple(
        Result(
            f"p{i}", "s", None, name, 0, f"{name}{i}", None, right, "exact", 9, None, "eos", None
        )
        for i, right in enumerate(correct)
    )
    return Arm(name, results, {"max_new_tokens": 9})


def compared(mended, broken, unchanged):
    base = arm("base", [False] * mended + [True] * broken + [True] * unchanged)
    other = arm("other", [True] * mended + [False] * broken + [True] * unchanged)
    return compare(other, base)


@pytest.mark.parametrize(
    ("mended", "broken", "unchanged", "verdict"),
    [
        (0, 0, 500, "equivalent"),
        (0, 0, 20, "open"),  # too few problems to say that nothing changes
        (10, 9, 981, "equivalent"),
        (30, 5, 965, "equivalent"),  # there, and too small to matter
        (80, 10, 410, "better"),
        (10, 80, 410, "worse"),
        (12, 8, 60, "open"),
    ],
)
def test_a_verdict_says_what_the_intervals_do(mended, broken, unchanged, verdict):
    assert compared(mended, broken, unchanged).verdict == verdict


@pytest.mark.parametrize(("mended", "broken", "unchanged"), [(10, 9, 981), (20, 40, 440)])
def test_equivalence_is_two_one_sided_tests(mended, broken, unchanged):
    """Each end of the 90 % interval is where a one-sided score test has p = .05."""
    estimate = compared(mended, broken, unchanged).equivalence
    assert estimate.low is not None
    assert estimate.high is not None
    n = mended + broken + unchanged
    for end, sign in ((estimate.low, 1), (estimate.high, -1)):
        # The share of broken answers that is most likely if the true difference is `end`.
        a, b = 2 * n, -mended - broken + (2 * n - mended + broken) * end
        share = ((b * b + 4 * a * broken * end * (1 - end)) ** 0.5 - b) / (2 * a)
        spread = (n * (2 * share + end * (1 - end))) ** 0.5
        assert norm.sf(sign * (mended - broken - n * end) / spread) == pytest.approx(0.05, abs=1e-5)


def test_the_margin_decides_and_not_the_difference():
    there = compared(30, 5, 965)
    assert there.difference.low is not None
    assert there.difference.low > 0
    assert there.equivalence.high is not None
    assert there.equivalence.high < GAIN
    assert there.verdict == "equivalent"


def test_passes_count_what_a_trace_does_not_show():
    events = (
        {"step": 0, "what": "recycle", "passes": 0.5},
        {"step": 1, "what": "steer"},
        {"step": 1, "what": "trial", "passes": 12.0},
    )
    trace = Trace("t", "m", "?", (7,), (1, 2, 3), "abc", "eos", events=events)
    assert passes_of(trace) == 15.5
