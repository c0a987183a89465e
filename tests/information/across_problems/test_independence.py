import numpy as np
import pytest
import torch
from scipy.stats import kstest

from mi_lens.information.across_problems.independence import gaussian_kernel, independence_test


def slow_hsic(k: np.ndarray, ell: np.ndarray) -> float:
    """Song et al. (2012), equation 5, term by term."""
    n = len(k)
    k, ell = k - np.diag(np.diag(k)), ell - np.diag(np.diag(ell))
    total = np.trace(k @ ell) + k.sum() * ell.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (k @ ell).sum()) / (n * (n - 3))


def test_hsic_and_cka_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.integers(3, size=30)
    x[:, 0] += y
    standard = (x - x.mean(0)) / x.std(0)
    distance = np.linalg.norm(standard[:, None] - standard, axis=-1)
    width = torch.from_numpy(distance[distance > 0]).median().item()
    k, ell = np.exp(-(distance**2) / (2 * width**2)), (y[:, None] == y).astype(float)
    test = independence_test(torch.from_numpy(x), y, permutations=0)
    assert test.hsic == pytest.approx(slow_hsic(k, ell), rel=1e-9)
    scale = np.sqrt(slow_hsic(k, k) * slow_hsic(ell, ell))
    assert test.cka == pytest.approx(slow_hsic(k, ell) / scale, rel=1e-9)
    assert test.p_value == 1


@pytest.mark.parametrize("numeric", [False, True])
def test_p_values_are_uniform_under_independence(numeric):
    p, cka = [], []
    for i in range(200):
        rng = np.random.default_rng([i, numeric])
        x = torch.from_numpy(rng.standard_normal((14, 3)))
        y = rng.standard_normal(14) if numeric else rng.integers(3, size=14)
        test = independence_test(x, y.tolist(), numeric=numeric, permutations=49, seed=i)
        p.append(test.p_value)
        cka.append(test.cka)
    # Jitter within the steps of 1/50: the values are discrete.
    jittered = np.array(p) - np.random.default_rng(0).uniform(0, 0.02, len(p))
    assert kstest(jittered, "uniform").pvalue > 0.01
    assert abs(np.mean(cka)) < 4 * np.std(cka) / len(cka) ** 0.5  # unbiased: no floor to take off


def test_dependence_is_found_even_where_no_line_divides_it():
    rng = np.random.default_rng(0)
    signs = rng.integers(2, size=(80, 2))
    x = torch.from_numpy(2.0 * signs - 1 + 0.2 * rng.standard_normal((80, 2)))
    test = independence_test(x, signs[:, 0] ^ signs[:, 1])
    assert test.p_value == 1 / 1000
    assert test.cka > 0.1


def test_numbers_are_alike_by_size():
    rng = np.random.default_rng(0)
    y = rng.permutation(60)  # all different: only as numbers can they be told alike
    x = torch.from_numpy(y[:, None] + rng.standard_normal((60, 1)))
    assert independence_test(x, y, numeric=True).cka > 0.9
    with pytest.raises(ValueError, match="all 60 labels are different"):
        independence_test(x, y)


def test_traces_of_one_problem_are_no_evidence_by_themselves():
    """States know the problem, not its label: ten traces each make it seem otherwise."""
    false_alarms = {"apart": 0, "together": 0}
    for i in range(40):
        rng = np.random.default_rng(i)
        problem = np.repeat(np.arange(8), 6)
        x = torch.from_numpy(
            rng.standard_normal((8, 5))[problem] + 0.1 * rng.standard_normal((48, 5))
        )
        y = (np.arange(8) % 2)[problem]
        tests = {
            "apart": independence_test(x, y, permutations=99),
            "together": independence_test(x, y, permutations=99, groups=problem.tolist()),
        }
        for name, test in tests.items():
            false_alarms[name] += test.p_value <= 0.05
    assert false_alarms["apart"] > 20
    assert false_alarms["together"] <= 7


def test_it_is_the_same_in_any_unit_and_again():
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.standard_normal((25, 3))), rng.integers(3, size=25)
    test = independence_test(x, y)
    again = independence_test(x * torch.tensor([1.0, 1e4, 1e-3]) + 7, y)
    assert again.cka == pytest.approx(test.cka, rel=1e-6)
    assert again.p_value == test.p_value
    assert independence_test(x, y) == test


def test_the_width_is_the_median_distance():
    kernel = gaussian_kernel(torch.tensor([[0.0], [1.0], [3.0]]))  # distances 1, 2 and 3
    assert kernel[0, 1] == pytest.approx(np.exp(-1 / 8))
    assert kernel.diagonal().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), [0, 1, 0], "4 or more rows"),
        (torch.zeros(5, 2), [0, 1, 0], "3 labels for 5 rows"),
        (torch.zeros(5, 2), [0, 1, 0, 1, 0], "all 5 rows are equal"),
        (torch.eye(5), [1] * 5, "all 5 labels are 1"),
        (torch.eye(5) / 0, [0, 1, 0, 1, 0], "problem row 0 of states"),
    ],
)
def test_bad_input_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        independence_test(x, y)


def test_a_number_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="problem row 2 of labels"):
        independence_test(torch.eye(5), [1.0, 2.0, float("nan"), 4.0, 5.0], numeric=True)
