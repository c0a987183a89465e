import numpy as np
import pytest

from mi_lens.information.per_trace.answer_endings import compare_endings
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import TopK


def measured(mi, **endings) -> Measurement:
    rises = {name: np.array(steps, dtype=float) for name, steps in endings.items()}
    return Measurement(np.array(mi, dtype=float), None, {}, {}, 0, rises)


def test_by_hand() -> None:
    own, other = [9, 8, 0, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 0, 0, 8]
    away = [0, 0, 0, 9, 8, 0, 0, 0]
    thinking = [np.array([1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)] * 2
    traces = [measured(own, bare=own, period=other), measured(own, bare=own, in_words=away)]
    found = compare_endings(traces, thinking, TopK(2))
    assert {name: row.traces for name, row in found.items()} == {
        "bare": 2,
        "period": 1,
        "in_words": 1,
    }
    assert [found[name].overlap.mean for name in found] == [1, 1 / 3, 0]
    assert [found[name].thinking.mean for name in found] == [0.5, 1, 0]
    assert [found[name].lift.mean for name in found] == [2, 4, 0]
    assert found["bare"].ratio.mean == 0.25
    assert found["bare"].mi == pytest.approx(17 / 8)
    assert (found["bare"].lift.low, found["bare"].lift.high) == (2, 2)  # two traces alike
    assert found["period"].lift.low is None  # one trace


def test_no_peak_and_no_thinking_word() -> None:
    flat = measured([1] * 4, bare=[1] * 4)
    row = compare_endings([flat, flat], [np.zeros(4, bool)] * 2)["bare"]
    assert (row.ratio.mean, row.overlap.mean, row.thinking.mean, row.lift.mean) == (
        0,
        None,
        None,
        None,
    )


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="trace 0 has 3 steps of MI and 2 words"):
        compare_endings([measured([1, 2, 3], bare=[1, 2, 3])], [np.zeros(2, bool)])
