import numpy as np
import pytest

from mi_lens.information.across_problems.independence import independence_test
from mi_lens.information.across_problems.known_channels import (
    bias_study,
    binary_channel,
    exclusive_or_channel,
    quantile_channel,
    table_channel,
)
from mi_lens.information.across_problems.probe import usable_information


def test_the_truth_of_gaussian_channels_at_their_limits():
    assert binary_channel(0.0).bits == pytest.approx(0, abs=1e-9)
    assert binary_channel(8.0).bits == pytest.approx(1, abs=1e-9)
    assert binary_channel(0.05).bits == pytest.approx(0.05**2 / 2 / np.log(2), rel=0.01)
    assert quantile_channel(4, 0.0).bits == pytest.approx(0, abs=1e-9)
    assert quantile_channel(4, 0.999999).bits == pytest.approx(2, abs=0.01)
    # Ever finer parts of x tell as much of h as x does: -log2(1 - r^2) / 2.
    assert quantile_channel(500, 0.8).bits == pytest.approx(-np.log2(1 - 0.64) / 2, abs=2e-3)


def test_the_truth_agrees_with_counting_drawn_rows():
    joint = np.random.default_rng(1).dirichlet(np.full(6, 0.5)).reshape(2, 3)
    for channel in (table_channel(joint), exclusive_or_channel()):
        states, y = channel.draw(40_000, np.random.default_rng(0))
        _, h = np.unique(states.numpy(), axis=0, return_inverse=True)
        counts = np.zeros((2, h.max() + 1))
        np.add.at(counts, (y, h.ravel()), 1)
        p = counts / counts.sum()
        outer = np.outer(p.sum(1), p.sum(0))
        counted = float((p[p > 0] * np.log2(p[p > 0] / outer[p > 0])).sum())
        assert counted == pytest.approx(channel.bits, abs=0.01)


TABLE = np.array([[0.3, 0.05, 0.05], [0.02, 0.28, 0.3]])


@pytest.mark.parametrize(
    ("channel", "below", "above"),
    [
        (binary_channel(0.0, dimensions=8), 0.02, 0.01),
        (binary_channel(1.0), 0.03, 0.02),
        (quantile_channel(4, 0.9), 0.06, 0.02),
        (table_channel(TABLE), 0.03, 0.02),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_known_information_is_found_and_not_exceeded(channel, below, above):
    """Mean over repeats, so that what is left is bias; few problems may only lower it."""
    (row,) = bias_study([channel], [300], repeats=8)
    assert row.truth == channel.bits
    assert row.high > -below
    assert row.low < above
    assert row.low <= row.bias <= row.high


def test_bias_shrinks_with_the_number_of_problems():
    few, many = bias_study([binary_channel(1.0, dimensions=30)], [50, 400], repeats=4)
    assert few.bias < many.bias - 0.05
    assert many.high < 0.05
    with pytest.raises(ValueError, match="repeats=1"):
        bias_study([binary_channel(1.0)], [50], repeats=1)


def test_what_a_linear_probe_cannot_read_a_kernel_test_finds():
    states, y = exclusive_or_channel().draw(100, np.random.default_rng(0))
    assert usable_information(states, y, shuffles=0).bits < 0.05
    assert independence_test(states, y, permutations=199).p_value == 1 / 200
