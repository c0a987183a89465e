import numpy as np
import pytest
import torch

from mi_lens.information.per_trace.covariates import (
    correlates,
    covariates,
    squared_correlation,
)
from mi_lens.information.per_trace.hsic import hsic_mi


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 20.0 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_correlates():
    rng = np.random.default_rng(0)
    explanations = [
        covariates(
            normal(50, 8, seed=i),
            normal(8, seed=100 + i),
            {"entropy": rng.random(50), "surprisal": np.zeros(50)},
        )
        for i in range(30)
    ]
    trajectories = [np.exp(e["entropy"]) for e in explanations]
    correlations = correlates(trajectories, explanations)
    assert list(correlations) == [
        "entropy",
        "surprisal",
        "squared correlation",
        "norm",
        "position",
    ]
    assert correlations["entropy"].mean == pytest.approx(1)
    assert (correlations["surprisal"].mean, correlations["surprisal"].n) == (None, 0)
    for name in ("norm", "position"):
        low, high = correlations[name].low, correlations[name].high
        assert low is not None
        assert high is not None
        assert -0.15 < low < 0 < high < 0.15
    single = correlates(trajectories[:1], explanations[:1])["entropy"]
    assert (single.low, single.high, single.n) == (None, None, 1)
    assert explanations[0]["norm"][3] == pytest.approx(normal(50, 8)[3].norm().item())
    assert explanations[0]["position"].tolist() == list(range(50))


def test_squared_correlation_is_numpys():
    states, answer = normal(6, 40, seed=1), normal(40, seed=2)
    expected = [np.corrcoef(state, answer)[0, 1] ** 2 for state in states.numpy()]
    np.testing.assert_allclose(squared_correlation(states, answer), expected, rtol=1e-12)
    moved = squared_correlation(3 * states - 7, -answer + 1)
    np.testing.assert_allclose(moved, expected, rtol=1e-10)
    assert squared_correlation(torch.ones(1, 40), answer).tolist() == [0]


def test_narrow_states_make_mi_a_squared_correlation():
    states, answer = normal(60, 64, seed=3) / 20, normal(64, seed=4) / 20  # deviations of 1
    states[::7] += answer
    mi = hsic_mi(states, answer, sigma=50.0).numpy()
    assert np.corrcoef(mi, squared_correlation(states, answer))[0, 1] > 0.999


def test_bad_input():
    with pytest.raises(ValueError, match="1 trajectories and 0 sets"):
        correlates([np.zeros(4)], [])
    with pytest.raises(ValueError, match="trace 0 has 4 steps of MI and 3 of entropy"):
        correlates([np.arange(4.0)], [{"entropy": np.arange(3.0)}])
