import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from mi_lens.common.statistics import estimate_mean
from mi_lens.information.per_trace.control_summary import summarize
from mi_lens.information.per_trace.controls import scale_sweep
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.measurement import (
    measure,
    measurement_from_row,
    measurement_to_row,
)


def synthetic(seed, others=8):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return 20 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    uncertainty = {"entropy": normal(30).abs().numpy(), "surprisal": normal(30).abs().numpy()}
    states, answer = normal(30, 24), normal(24)
    states[[7, 19]] = answer
    return states, answer, normal(others, 24), uncertainty


def test_rows_come_back():
    for others in (0, 8):
        measurement = measure(*synthetic(0, others))
        again = measurement_from_row(json.loads(json.dumps(measurement_to_row(measurement))))
        assert measurement_to_row(again) == measurement_to_row(measurement)
        assert (again.calibration is None) == (others == 0)


def test_endings_are_other_answers_at_the_same_states():
    states, answer, others, next_token = synthetic(2)
    endings = {"period": answer, "boxed": others[0]}
    measurement = measure(states, answer, others, next_token, endings=endings)
    np.testing.assert_array_equal(measurement.endings["period"], measurement.mi)
    np.testing.assert_allclose(measurement.endings["boxed"], hsic_mi(states, others[0]).numpy())
    again = measurement_from_row(json.loads(json.dumps(measurement_to_row(measurement))))
    np.testing.assert_array_equal(again.endings["boxed"], measurement.endings["boxed"])


def test_variants():
    states, answer, others, uncertainty = synthetic(1)
    measurement = measure(states, answer, others, uncertainty)
    np.testing.assert_allclose(measurement.mi, hsic_mi(states, answer).numpy())
    wide = measurement.variants["sigma x 4 (scale x 0.25)"]
    np.testing.assert_allclose(wide, scale_sweep(states, answer, [0.25])[0])
    assert measurement.massive == 0
    np.testing.assert_allclose(measurement.variants["massive removed"], measurement.mi)
    assert measurement.variants["answer permuted"][7] < measurement.mi[7]


def test_summary_by_hand():
    measurements = [measure(*synthetic(seed, others=40)) for seed in range(3)]
    summary = summarize(measurements)
    assert summary.traces == 3
    assert summary.mi == pytest.approx(np.mean([r.mi.mean() for r in measurements]))
    assert summary.mismatch is not None
    assert summary.mismatch.others == 40
    assert summary.mismatch.mi < summary.mi
    # The two planted steps, in every trace.
    assert summary.mismatch.peaks is not None
    assert summary.mismatch.shared is not None
    assert summary.mismatch.peaks >= 2
    assert summary.mismatch.shared <= min(summary.mismatch.peaks, summary.peaks)
    assert summary.mismatch.specific.n == 3
    # What other answers have in the gold answer's place is taken off, trace by trace.
    calibrations = [m.calibration for m in measurements if m.calibration is not None]
    chance = [c.chance_peaks for c in calibrations if c.chance_peaks is not None]
    assert summary.mismatch.chance == pytest.approx(np.mean(chance))
    beyond = [len(c.peaks()) - less for c, less in zip(calibrations, chance, strict=True)]
    assert summary.mismatch.excess == estimate_mean(beyond)
    assert summary.mismatch.shared_excess is not None
    assert 1 < (summary.mismatch.shared_excess.mean or 0.0) <= summary.mismatch.shared
    same = summary.variants["massive removed"]
    assert (same.mi, same.spearman, same.overlap) == (pytest.approx(summary.mi), 1, 1)
    explained = {"entropy", "surprisal", "squared correlation", "norm", "position"}
    assert set(summary.correlates) == set(summary.remaining) == explained
    # Coordinates of standard deviation 20 see a kernel of width 50 as nearly linear.
    squared = summary.remaining["squared correlation"].variance.mean
    assert squared is not None
    assert squared < 0.1 < (summary.remaining["position"].variance.mean or 0)
    assert summarize([*measurements, measure(*synthetic(3, others=1))]).mismatch is None


def test_too_few_other_answers_leave_specific_peaks_unknown():
    mismatch = summarize([measure(*synthetic(seed, others=3)) for seed in range(2)]).mismatch
    assert mismatch is not None
    assert (mismatch.peaks, mismatch.shared) == (None, None)
    assert mismatch.unknown == "unknown: 3 other answers, and it takes 19"
    assert json.loads(json.dumps(asdict(mismatch), allow_nan=False))["peaks"] is None
    known = summarize([measure(*synthetic(0, others=19))]).mismatch
    assert known is not None
    assert known.peaks is not None
    assert known.unknown == ""
    # Without the gold answer's place there are only 18 others to compare with.
    assert (known.chance, known.excess, known.shared_excess) == (None, None, None)


def test_nothing_to_summarize():
    with pytest.raises(ValueError, match="no measurements to summarize"):
        summarize([])
