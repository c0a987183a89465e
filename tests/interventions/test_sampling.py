import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.special import softmax
from scipy.stats import chisquare

from mi_lens.interventions.sampling import Sampling, choose_tokens, uniform_key, uniforms


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
    numbers = torch.tensor([numbers_of(s, [5], 0) for s in range(draws)], dtype=torch.float64)
    chosen = choose_tokens(logits.expand(draws, -1), [sampling] * draws, numbers)
    counts = np.bincount(chosen, minlength=5)
    assert counts[kept].sum() == draws
    if len(kept) > 1:
        expected = probabilities.numpy()[kept] ** (1 / sampling.temperature)
        assert chisquare(counts[kept], expected * draws / expected.sum()).pvalue > 1e-4


def numbers_of(seed, prompt, step, purpose="token"):
    return float(uniforms(uniform_key(seed, prompt, purpose), step, 1)[0])


def alone(logits, sampling, number):
    """The token of one row, by numpy's own functions."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    weights = softmax((logits - logits.max()) / sampling.temperature)
    order = np.argsort(-weights, kind="stable")
    weights = weights[order]
    kept = weights >= sampling.min_p * weights[0]
    before = np.concatenate([[0], weights.cumsum()[:-1]])
    kept &= before < sampling.top_p
    kept &= np.arange(len(weights)) < (sampling.top_k or len(weights))
    reached = (weights * kept).cumsum()
    return int(order[np.flatnonzero(reached > number * reached[-1])[0]])


SETTINGS = [
    Sampling(),
    Sampling(1.0),
    Sampling(0.6, top_p=0.95),
    Sampling(0.7, top_k=3),
    Sampling(1.3, min_p=0.05, top_p=0.8, top_k=20),
    Sampling(1e-300),
]


def test_rows_of_different_settings_are_drawn_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    samplings = SETTINGS * 20
    logits = torch.randn(len(samplings), 50, generator=generator) * 3
    logits[:, 7] = -torch.inf
    numbers = torch.rand(len(samplings), dtype=torch.float64, generator=generator)
    together = choose_tokens(logits, samplings, numbers)
    wanted = [
        alone(row.double().numpy(), sampling, float(number))
        for row, sampling, number in zip(logits, samplings, numbers, strict=True)
    ]
    assert together.tolist() == wanted


def test_uniform_is_a_function_of_seed_prompt_step_and_purpose():
    assert numbers_of(0, [1], 2) != numbers_of(0, [1], 2, "recycle")
    values = [numbers_of(s, p, t) for s in (0, 1) for p in ([1], [2]) for t in range(50)]
    assert values == [numbers_of(s, p, t) for s in (0, 1) for p in ([1], [2]) for t in range(50)]
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


@given(st.integers(0, 2**64), st.integers(0, 2**20), st.integers(1, 40))
def test_numbers_of_several_steps_are_those_of_each_step(seed, step, count):
    key = uniform_key(seed, (1, 2, 3))
    one_by_one = [uniforms(key, at, 1)[0] for at in range(step, step + count)]
    assert uniforms(key, step, count).tolist() == one_by_one
