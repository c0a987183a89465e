import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mi_lens.information.across_problems import probe
from mi_lens.information.across_problems.probe import usable_information


def clusters(n=120, classes=3, dimensions=6, apart=3.0, seed=0):
    """Labels, and states around one centre for each."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    return torch.from_numpy(rng.standard_normal((n, dimensions)) + apart * np.eye(dimensions)[y]), y


@pytest.mark.parametrize(("dimensions", "classes"), [(3, 3), (40, 2), (300, 4)])
@pytest.mark.parametrize(
    ("iterations", "converged", "tolerance"), [(probe.ITERATIONS, 2, 1e-4), (500, 4, 1e-2)]
)
def test_the_regression_is_that_of_scikit_learn(
    dimensions, classes, iterations, converged, tolerance, monkeypatch
):
    monkeypatch.setattr(probe, "ITERATIONS", iterations)
    x, y = clusters(90, classes, dimensions)
    train, test = torch.arange(90) < 60, torch.arange(90) >= 60
    guesses = list(probe._predictions(x, torch.from_numpy(y)[None], train, test, classes))
    mean, deviation = x[train].mean(0), x[train].std(0, correction=0)
    scaled = ((x - mean) / deviation / dimensions**0.5).numpy()
    frequencies = (np.bincount(y[:60], minlength=classes) + 1) / (60 + classes)
    np.testing.assert_allclose(guesses[0][:, 0, 0].exp(), frequencies, rtol=1e-5)
    for penalty, guess in zip(probe.PENALTIES[:converged], guesses[1:], strict=False):
        # Two classes have one column of weights there and two, opposite ones, here.
        strength = (2 if classes == 2 else 1) / penalty
        reference = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000)
        q = reference.fit(scaled[:60], y[:60]).predict_proba(scaled[60:])
        np.testing.assert_allclose(guess[:, 0].exp().T, (60 * q + frequencies) / 61, atol=tolerance)


def test_labelled_rows_can_be_read_and_shuffled_ones_cannot():
    x, y = clusters()
    information = usable_information(x, y)
    assert 1.2 < information.bits < information.entropy < 1.65
    assert information.error < 0.08
    assert information.interval[0] < information.bits < information.interval[1]
    assert information.floor < 0.02
    assert information.floor <= information.floor_high < 0.3
    assert information.p_value == 1 / 21
    assert information.problems == 120
    assert information.cross_entropy == pytest.approx(information.entropy - information.bits)


def test_noise_holds_nothing():
    rng = np.random.default_rng(1)
    information = usable_information(
        torch.from_numpy(rng.standard_normal((150, 200))), rng.integers(5, size=150)
    )
    assert -0.1 < information.bits < 0.03
    assert information.p_value > 0.05
    assert information.error > 0.6


def test_held_out_means_held_out():
    """Each problem has a state of its own, far from all others: it can be learnt by heart only."""
    y = np.arange(60) % 2
    information = usable_information(torch.eye(60) * 100, y)
    assert information.bits < 0.02
    # Three traces a problem, apart from one another: only groups tell that it is the same.
    repeated = torch.eye(60).repeat(3, 1) * 100
    leaked = usable_information(repeated, np.tile(y, 3), shuffles=3)
    kept_apart = usable_information(repeated, np.tile(y, 3), groups=list(range(60)) * 3, shuffles=3)
    assert leaked.bits > 0.5
    assert kept_apart.bits < 0.02
    assert (leaked.problems, kept_apart.problems) == (180, 60)


def test_the_gain_does_not_depend_on_units_or_dtype():
    x, y = clusters(60)
    information = usable_information(x, y, shuffles=1)
    scaled = usable_information((x * 1000 - 50).float(), y.tolist(), shuffles=1)
    np.testing.assert_allclose(scaled.gains, information.gains, atol=1e-3)
    constant = torch.cat([x, torch.full((60, 2), 1e4, dtype=x.dtype)], dim=1)
    np.testing.assert_allclose(
        usable_information(constant, y, shuffles=1).gains, information.gains, atol=1e-3
    )


def test_the_order_of_labels_names_nothing():
    x, y = clusters(60)
    names = np.array(["twelve", "one", "zero"])[y].tolist()
    assert usable_information(x, names, shuffles=0).bits == pytest.approx(
        usable_information(x, y, shuffles=0).bits, abs=1e-4
    )


def test_it_comes_out_the_same_again():
    x, y = clusters(60)
    assert usable_information(x, y, seed=3, shuffles=2) == usable_information(
        x, y, seed=3, shuffles=2
    )
    assert usable_information(x, y, seed=3, shuffles=2).gains != pytest.approx(
        usable_information(x, y, seed=4, shuffles=2).gains, abs=1e-6
    )


def test_a_label_that_training_never_saw_costs_finitely_many_bits():
    x, y = clusters(40)
    labels = [*y.tolist()[:-1], "once"]
    information = usable_information(x, labels, shuffles=0)
    assert np.isfinite(information.gains).all()
    assert information.gains[-1] >= -np.log2(40)
    assert not information.correct[-1]
    assert np.isnan(information.floor)
    assert information.p_value == 1


def test_states_that_do_not_vary_say_nothing():
    y = np.arange(30) % 3
    assert usable_information(torch.ones(30, 4), y, shuffles=0).bits == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "2 labels for 9 rows"),
        ({"labels": [4] * 9}, "all 9 labels are 4"),
        ({"folds": 10}, "folds=10 with 9 problems"),
        ({"folds": 2}, "folds=2 with 9 problems"),
        ({"groups": ["a"]}, "1 groups for 9 rows"),
        ({"groups": [0, 0, 1, 2, 3, 4, 5, 6, 7]}, "rows 0 and 1 are of one problem"),
        ({"states": torch.zeros(0, 3), "labels": []}, r"states have shape \(0, 3\)"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"states": torch.arange(27.0).reshape(9, 3), "labels": [0, 1, 0, 1, 0, 1, 0, 1, 0]}
    given |= change
    with pytest.raises(ValueError, match=message):
        usable_information(given.pop("states"), given.pop("labels"), **given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_named(value):
    x, y = clusters(20)
    x[7, 2] = value
    with pytest.raises(ValueError, match="problem row 7 of states"):
        usable_information(x, y)
