import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.information.across_problems.error_bounds import (
    accumulated_information,
    binary_entropy,
    entropy_bits,
    error_bounds,
)


def entropy(p):
    p = np.asarray(p).ravel()
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


@st.composite
def joints(draw):
    """Tables p(y, h), sparse ones and nearly deterministic ones among them."""
    size, states = draw(st.integers(2, 7)), draw(st.integers(1, 8))
    sharpness = draw(st.sampled_from([0.3, 1.0, 3.0, 8.0]))
    cells = draw(
        st.lists(st.floats(0, 1), min_size=size * states, max_size=size * states).filter(
            lambda c: max(c) > 0.1
        )
    )
    table = np.array(cells).reshape(size, states) ** sharpness
    return table / table.sum()


@given(joints())
def test_both_theorems_hold_for_the_best_guess(joint):
    information = entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint)
    best_guess_errs = 1 - joint.max(0).sum()
    for prior in (None, float(joint.sum(1).max())):
        bounds = error_bounds(entropy(joint.sum(1)), information, len(joint), largest_prior=prior)
        assert bounds.lower <= best_guess_errs + 1e-9
        assert best_guess_errs <= bounds.upper + 1e-9


@given(joints(), st.randoms(use_true_random=False))
def test_the_lower_bound_holds_for_any_guess(joint, random):
    information = entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint)
    guesses = [random.randrange(len(joint)) for _ in range(joint.shape[1])]
    errs = 1 - sum(joint[y, h] for h, y in enumerate(guesses))
    assert error_bounds(entropy(joint.sum(1)), information, len(joint)).lower <= errs + 1e-9


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("error", [0.0, 0.01, 0.2, 0.45])
def test_the_lower_bound_is_reached_by_a_symmetric_channel(size, error):
    row = np.full(size, error / (size - 1))
    joint = np.array([np.roll(np.r_[1 - error, row[1:]], i) for i in range(size)]) / size
    information = 2 * np.log2(size) - entropy(joint)
    assert error_bounds(np.log2(size), information, size).lower == pytest.approx(error, abs=1e-6)


def test_the_upper_bound_is_reached_by_an_erasure_channel():
    """A bit that is lost with probability e: half of the lost ones are guessed wrong."""
    for lost in (0.1, 0.5, 1.0):
        assert error_bounds(1.0, 1 - lost, 2).upper == pytest.approx(lost / 2)


@given(st.integers(2, 1000), st.floats(0, 1), st.floats(0, 1))
def test_the_lower_bound_solves_theorem_1(size, share, known):
    whole = share * np.log2(size)
    p = float(error_bounds(whole, known * whole, size).lower)
    left = (1 - known) * whole
    spent = float(binary_entropy(np.array(p))) + p * np.log2(size - 1)
    assert spent == pytest.approx(left, abs=1e-6)
    assert 0 <= p <= 1 - 1 / size


def test_limits():
    information = np.array([-0.5, 0.0, 1.0, np.log2(10), 5.0])
    bounds = error_bounds(np.log2(10), information, 10)
    assert bounds.lower[0] == bounds.lower[1] == pytest.approx(0.9)  # below 0 counts as 0
    assert bounds.upper[:2].tolist() == pytest.approx([0.9, 0.9])  # (3.32 - 0) / 2 is no error rate
    assert bounds.lower[3:].tolist() == bounds.upper[3:].tolist() == [0, 0]  # nothing is left open
    assert (np.diff(bounds.lower) <= 0).all()
    assert (np.diff(bounds.upper) <= 0).all()
    assert error_bounds(0.0, 0.0, 5).upper == 0
    assert error_bounds(0.8, 0.0, 4, largest_prior=0.8).upper == pytest.approx(0.2)


def test_bounds_keep_the_shape_of_the_information():
    bounds = error_bounds(2.0, np.zeros((3, 4)), 4)
    assert bounds.lower.shape == bounds.upper.shape == (3, 4)
    assert error_bounds(2.0, 1.0, 4).lower.shape == ()


@pytest.mark.parametrize(
    ("arguments", "prior", "message"),
    [
        ((1.0, 0.0, 1), None, "size=1"),
        ((1.5, 0.0, 2), None, "in nats"),
        ((-0.1, 0.0, 2), None, "expected 0 to log2"),
        ((float("nan"), 0.0, 2), None, "expected 0 to log2"),
        ((1.0, [0.1, float("nan")], 2), None, r"NaN at \[1\]"),
        ((1.0, 0.0, 2), 0.4, r"largest_prior=0\.4"),
    ],
)
def test_bad_bounds_are_refused(arguments, prior, message):
    with pytest.raises(ValueError, match=message):
        error_bounds(*arguments, largest_prior=prior)


def test_entropy_of_labels():
    assert entropy_bits("aabb") == pytest.approx(1)
    assert entropy_bits([1, 2, 3, 3]) == pytest.approx(1.5)
    assert entropy_bits([7]) == 0
    with pytest.raises(ValueError, match="no labels"):
        entropy_bits([])


def test_information_accumulates_over_steps():
    """The first step knows one bit of y, the second nothing, the third the other bit."""
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=300)
    steps = [rng.standard_normal((300, 3)) for _ in range(3)]
    steps[0][:, 0] += 6 * (y % 2)
    steps[2][:, 0] += 6 * (y // 2)
    accumulated = accumulated_information([torch.from_numpy(s) for s in steps], y, shuffles=2)
    assert accumulated.bits == pytest.approx([1, 1, 2], abs=0.15)
    assert (np.diff(accumulated.running_maximum) >= 0).all()
    assert (accumulated.running_maximum >= accumulated.bits).all()
    assert max(e.floor for e in accumulated.estimates) < 0.05


def test_steps_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="no steps"):
        accumulated_information([], [1, 2])
    with pytest.raises(ValueError, match=r"steps have \[4, 5\] rows"):
        accumulated_information([torch.zeros(4, 2), torch.zeros(5, 2)], [1, 2, 1, 2])


def test_labels_may_be_a_tensor():
    labels = [0, 1, 1, 2, 2, 2, 2, 0]
    expected = entropy_bits(labels)
    assert entropy_bits(torch.tensor(labels)) == expected == entropy_bits(np.array(labels))
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        entropy_bits(torch.tensor(labels).reshape(2, 4))
