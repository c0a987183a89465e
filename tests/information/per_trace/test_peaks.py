import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.information.per_trace.peak_rules import IQR
from mi_lens.information.per_trace.peaks import find_peaks, peak_statistics, top_k_peaks

trajectories = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60)


def test_by_hand():
    mi = [1.0, 2.0, 3.0, 4.0, 100.0, 2.0, 3.0, 2.0, 50.0]
    # Sorted 1 2 2 2 3 3 4 50 100: Q1 = 2, median = 3, Q3 = 4, IQR = 2, threshold = 7.
    assert find_peaks(mi).tolist() == [4, 8]
    assert find_peaks(mi, IQR(tau=23.0)).tolist() == [4]  # 50 is not above 4 + 46.
    s = peak_statistics(mi, [4, 8])
    assert (s.steps, s.count, s.ratio) == (9, 2, 2 / 9)
    assert (s.interval_min, s.interval_mean, s.interval_max) == (4, 4.0, 4)
    assert s.aom == pytest.approx((97 / 2 + 47 / 2) / 2)
    assert s.mean == pytest.approx(np.mean(mi))
    assert s.std == pytest.approx(np.std(mi))


@given(trajectories, st.floats(0, 5))
def test_agrees_with_the_definition(mi, tau):
    sorted_mi = sorted(mi)

    def quartile(q):
        place = q * (len(mi) - 1)
        low = int(place)
        high = min(low + 1, len(mi) - 1)
        return sorted_mi[low] + (place - low) * (sorted_mi[high] - sorted_mi[low])

    threshold = quartile(0.75) + tau * (quartile(0.75) - quartile(0.25))
    peaks = find_peaks(mi, IQR(tau)).tolist()
    slack = 1e-9 * max(1.0, abs(threshold))
    assert {t for t, m in enumerate(mi) if m > threshold + slack} <= set(peaks)
    assert set(peaks) <= {t for t, m in enumerate(mi) if m > threshold - slack}
    assert peaks == sorted(peaks)


@given(st.lists(st.integers(-1000, 1000), min_size=4, max_size=60), st.sampled_from([0.25, 2, 8]))
def test_unchanged_by_shift_and_scale(mi, scale):
    values = np.array(mi, dtype=float)
    assert find_peaks(values).tolist() == find_peaks(scale * values + 64).tolist()


@given(trajectories, st.integers(1, 70))
def test_top_k(mi, k):
    peaks = top_k_peaks(mi, k).tolist()
    assert len(peaks) == min(k, len(mi))
    assert peaks == sorted(set(peaks))
    rest = [m for t, m in enumerate(mi) if t not in peaks]
    assert not rest or min(mi[t] for t in peaks) >= max(rest)


def test_a_constant_trajectory_has_no_peaks_and_no_aom():
    mi = torch.full((8,), 0.1)
    assert find_peaks(mi).tolist() == []
    statistics = peak_statistics(mi, [])
    assert (statistics.count, statistics.aom, statistics.interval_mean) == (0, None, None)
    assert top_k_peaks(mi, 3).tolist() == [0, 1, 2]


def test_bad_input():
    with pytest.raises(ValueError, match="3 steps: peaks are defined by quartiles"):
        find_peaks([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="nan at step 2"):
        find_peaks([1.0, 2.0, float("nan"), 3.0])
    with pytest.raises(ValueError, match="inf at step 0"):
        top_k_peaks([float("inf"), 2.0, 3.0, 3.0])
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        find_peaks(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"tau=-1.0: expected"):
        find_peaks([1.0, 2, 3, 4], IQR(tau=-1.0))
    with pytest.raises(ValueError, match="k=0: expected"):
        top_k_peaks([1.0, 2, 3, 4], k=0)
    with pytest.raises(ValueError, match="on a trajectory of 4 steps"):
        peak_statistics([1.0, 2, 3, 4], [4])
