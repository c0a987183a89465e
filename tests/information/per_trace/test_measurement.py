import json

import numpy as np
import pytest
import torch

from mi_lens.information.per_trace.control_summary import summarize
from mi_lens.information.per_trace.controls import scale_sweep
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.measurement import read, reading_from_row, reading_to_row


def made(seed, others=8):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return 20 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    uncertainty = {"entropy": normal(30).abs().numpy(), "surprisal": normal(30).abs().numpy()}
    states, answer = normal(30, 24), normal(24)
    states[[7, 19]] = answer
    return states, answer, normal(others, 24), uncertainty


def test_rows_come_back():
    for others in (0, 8):
        reading = read(*made(0, others))
        again = reading_from_row(json.loads(json.dumps(reading_to_row(reading))))
        assert reading_to_row(again) == reading_to_row(reading)
        assert (again.calibration is None) == (others == 0)


def test_variants():
    states, answer, others, uncertainty = made(1)
    reading = read(states, answer, others, uncertainty)
    np.testing.assert_allclose(reading.mi, hsic_mi(states, answer).numpy())
    wide = reading.variants["sigma x 4 (scale x 0.25)"]
    np.testing.assert_allclose(wide, scale_sweep(states, answer, [0.25])[0])
    assert reading.massive == 0
    np.testing.assert_allclose(reading.variants["massive removed"], reading.mi)
    assert reading.variants["answer permuted"][7] < reading.mi[7]


def test_summary_by_hand():
    readings = [read(*made(seed, others=40)) for seed in range(3)]
    found = summarize(readings)
    assert found.traces == 3
    assert found.mi == pytest.approx(np.mean([r.mi.mean() for r in readings]))
    assert found.mismatch is not None
    assert found.mismatch.others == 40
    assert found.mismatch.mi < found.mi
    # The two planted steps, in every trace.
    assert found.mismatch.peaks >= 2
    assert found.mismatch.shared <= min(found.mismatch.peaks, found.peaks)
    assert found.mismatch.specific.n == 3
    same = found.variants["massive removed"]
    assert (same.mi, same.spearman, same.overlap) == (pytest.approx(found.mi), 1, 1)
    assert set(found.correlates) == {"entropy", "surprisal", "norm", "position"}
    assert summarize([*readings, read(*made(3, others=1))]).mismatch is None


def test_nothing_to_summarize():
    with pytest.raises(ValueError, match="no readings to summarize"):
        summarize([])
