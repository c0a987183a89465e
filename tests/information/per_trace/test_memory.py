"""What is computed of long traces takes no copy of all their states in float64."""

import numpy as np
import pytest
import torch

from mi_lens.information.per_trace.controls import massive_coordinates
from mi_lens.information.per_trace.covariates import covariates
from tests.live_bytes import LiveBytes

D = 512


def states_of(steps):
    states = torch.randn(steps, D, generator=torch.Generator().manual_seed(steps))
    states[:, 7] = 1000
    states[: steps // 2, 9] = -1000
    states[: steps // 2 - 1, 11] = 1000
    return states


@pytest.mark.parametrize(
    "work",
    [lambda s: massive_coordinates(s, s[0] / s[0]), lambda s: covariates(s, s[-1], {})],
    ids=["massive coordinates", "covariates"],
)
def test_peak_memory_does_not_grow_with_the_trace(work):
    peaks = []
    for steps in (600, 2400):
        states = states_of(steps)
        with LiveBytes() as memory:
            work(states)
        peaks.append(memory.peak)
    added = 1800 * D * 4
    assert peaks[1] - peaks[0] < 0.2 * added


def test_pieces_give_what_the_whole_gives():
    states = states_of(2400)
    massive = massive_coordinates(states, states[-1])
    assert massive.nonzero()[:, 0].tolist() == [7, 9]  # 11 is large in a step less than half
    assert not massive_coordinates(states[:0], states[-1] / states[-1]).any()
    told = covariates(states, states[-1], {})
    x = states.double().numpy()
    np.testing.assert_allclose(told["norm"], np.linalg.norm(x, axis=1), rtol=1e-12)
    correlation = np.array([np.corrcoef(row, x[-1])[0, 1] for row in x])
    np.testing.assert_allclose(told["squared correlation"], correlation**2, rtol=1e-9, atol=1e-12)
