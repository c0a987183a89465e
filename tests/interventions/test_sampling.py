import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from mi_lens.interventions.sampling import Sampling, choose_token, uniform


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0), [0, 1, 2, 3, 4]),
        (Sampling(1.0, top_k=2), [1, 3]),
        (Sampling(1.0, top_p=0.6), [1, 3]),
        (Sampling(1.0, top_p=0.4), [3]),
        (Sampling(1.0, min_p=0.3), [1, 2, 3]),
        (Sampling(1.0, top_p=0.7, min_p=0.4), [1, 3]),
        (Sampling(0.5), [0, 1, 2, 3, 4]),
        (Sampling(1e-300), [3]),
    ],
)
def test_samples_follow_the_probabilities(sampling, kept):
    probabilities = torch.tensor([0.1, 0.2, 0.15, 0.45, 0.1], dtype=torch.float64)
    logits = probabilities.log() + 1000
    draws = 4000
    chosen = [choose_token(logits, sampling, uniform(s, [5], 0)) for s in range(draws)]
    counts = np.bincount(chosen, minlength=5)
    assert counts[kept].sum() == draws
    if len(kept) > 1:
        expected = probabilities.numpy()[kept] ** (1 / sampling.temperature)
        assert chisquare(counts[kept], expected * draws / expected.sum()).pvalue > 1e-4


def test_uniform_is_a_function_of_seed_prompt_step_and_purpose():
    assert uniform(0, [1], 2) != uniform(0, [1], 2, "recycle")
    values = [uniform(s, p, t) for s in (0, 1) for p in ([1], [2]) for t in range(50)]
    assert values == [uniform(s, p, t) for s in (0, 1) for p in ([1], [2]) for t in range(50)]
    assert len(set(values)) == 200
    assert all(0 <= v < 1 for v in values)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_k", 0),
        ("min_p", 1.5),
    ],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value}"):
        Sampling(**{setting: value})
