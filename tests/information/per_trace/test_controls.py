import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from mi_lens.common.statistics import estimate_mean
from mi_lens.information.per_trace.controls import (
    massive_coordinates,
    mismatched_gold,
    others_needed,
    permuted_coordinates,
    scale_sweep,
    sigma_sweep,
    without_massive,
)
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.peak_rules import IQR, TopK
from mi_lens.information.per_trace.peaks import find_peaks


def normal(*shape, seed=0, scale=20.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_mismatched_gold_by_hand():
    states, answer, others = normal(7, 24), normal(24, seed=1), normal(5, 24, seed=2)
    states[3] = answer
    calibration = mismatched_gold(states, answer, others)
    for t in range(7):
        raw = hsic_mi(states[t], answer).item()
        wrong = [hsic_mi(states[t], other).item() for other in others]
        assert calibration.raw[t] == pytest.approx(raw, rel=1e-10)
        assert calibration.mean[t] == pytest.approx(np.mean(wrong), rel=1e-10)
        assert calibration.std[t] == pytest.approx(np.std(wrong, ddof=1), rel=1e-9)
        assert calibration.p_values[t] == (1 + sum(w >= raw for w in wrong)) / 6
        assert calibration.specific[t] == pytest.approx(
            (raw - np.mean(wrong)) / np.std(wrong, ddof=1)
        )
    assert calibration.p_values[3] == 1 / 6
    assert calibration.specific.argmax() == 3
    assert (calibration.q_values >= calibration.p_values).all()


@pytest.mark.parametrize("seed", range(2))
def test_a_planted_answer_is_found(seed):
    states, others = normal(40, 32, seed=seed), normal(60, 32, seed=100 + seed)
    answer = normal(32, seed=200 + seed)
    states[[5, 20]] = answer + normal(2, 32, seed=300 + seed, scale=5.0)
    calibration = mismatched_gold(states, answer, others)
    assert set(calibration.peaks().tolist()) >= {5, 20}
    # Two peaks among 40 steps take 40 / (2 * .05) = 400 other answers to pass by rank alone.
    assert calibration.q_values.min() > 0.05
    many = mismatched_gold(states, answer, normal(402, 32, seed=400 + seed))
    assert set(many.peaks(control="fdr").tolist()) >= {5, 20}


def test_any_false_peak_is_as_rare_as_promised():
    """Answers exchangeable by construction: one trace in ten has a peak at level 0.1."""
    false = 0
    for seed in range(60):
        answers = normal(20, 12, seed=seed)
        calibration = mismatched_gold(normal(15, 12, seed=1000 + seed), answers[0], answers[1:])
        false += bool((calibration.family_p_values <= 0.1).any())
    # Binomial(60, 0.1): 0 to 14 holds but for one time in a thousand.
    assert false <= 14


@pytest.mark.parametrize("rule", [IQR(), TopK(3)])
def test_peaks_by_chance_are_those_of_every_other_answer_in_the_gold_ones_place(rule):
    states, answer, others = normal(30, 12), normal(12, seed=1), normal(24, 12, seed=2)
    states[[4, 9]] = others[3]
    counts = []
    for i in range(len(others)):
        rest = torch.cat([others[:i], others[i + 1 :]])
        pseudo = mismatched_gold(states, others[i], rest, rule=rule)
        peaks = set(pseudo.peaks(rule).tolist())
        counts.append((len(peaks), len(peaks & set(find_peaks(pseudo.raw, rule).tolist()))))
    calibration = mismatched_gold(states, answer, others, rule=rule)
    found = (calibration.chance_peaks, calibration.chance_shared)
    assert found == pytest.approx(tuple(np.mean(counts, 0)))
    assert sum(peaks for peaks, _ in counts) > 0


def test_an_answer_like_all_others_has_no_peaks_beyond_chance():
    """Of answers that are exchangeable, the gold one has as many as the others on average."""
    excess = []
    for seed in range(150):
        answers = normal(41, 12, seed=seed)
        states = normal(30, 12, seed=1000 + seed)
        calibration = mismatched_gold(states, answers[0], answers[1:])
        assert calibration.chance_peaks is not None
        excess.append(len(calibration.peaks()) - calibration.chance_peaks)
    estimate = estimate_mean(excess, confidence=0.999)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 0 < estimate.high


def test_a_shared_massive_coordinate_makes_raw_values_but_no_specific_ones():
    states, answer, others = normal(40, 64), normal(64, seed=1), normal(100, 64, seed=2)
    bare = mismatched_gold(states, answer, others)
    for vectors in (states, answer, others):
        vectors[..., 9] = 3000.0
    calibration = mismatched_gold(states, answer, others)
    # The number rises by the shared coordinate, as much for the wrong answers as for the right.
    assert calibration.raw.mean() > bare.raw.mean() + 0.5
    assert abs(calibration.specific.mean()) < 1
    assert calibration.peaks().tolist() == []
    assert massive_coordinates(states, answer).nonzero().flatten().tolist() == [9]
    cleaned = without_massive(states, answer)
    keep = torch.arange(64) != 9
    np.testing.assert_allclose(cleaned, hsic_mi(states[:, keep], answer[keep]).numpy())


@pytest.mark.parametrize(("level", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3)])
def test_significance_takes_enough_other_answers(level, needed):
    assert others_needed(level) == needed
    assert 1 / (1 + needed) <= level * (1 + 1e-12) < 1 / needed
    states, answer = normal(8, 12), normal(12, seed=1)
    enough = mismatched_gold(states, answer, normal(needed, 12, seed=2))
    assert enough.decides(level)
    enough.peaks(level=level)
    if needed > 3:
        few = mismatched_gold(states, answer, normal(needed - 1, 12, seed=2))
        assert not few.decides(level)
        with pytest.raises(ValueError, match=f"{needed - 1} other answers: .* takes {needed}"):
            few.peaks(level=level)


def test_p_values_are_uniform_under_exchangeability():
    vectors = normal(60, 51, 12)
    p = [mismatched_gold(v[:1], v[1], v[2:]).p_values[0] for v in vectors]
    # Spread over (0, 1/50] ... by a uniform draw within each atom.
    jittered = np.array(p) - np.random.default_rng(0).uniform(0, 1 / 50, len(p))
    assert kstest(jittered, "uniform").pvalue > 1e-3


def test_no_spread_is_no_evidence():
    states, answer = normal(6, 16), normal(16, seed=1)
    calibration = mismatched_gold(states, answer, answer.repeat(3, 1))
    assert calibration.p_values.tolist() == [1.0] * 6
    assert np.abs(calibration.raw - calibration.mean).max() < 1e-12


def test_permuted_coordinates():
    states, answer = normal(5, 32), normal(32, seed=1)
    states[2] = answer
    floor = permuted_coordinates(states, answer, permutations=20)
    assert floor.shape == (20, 5)
    assert hsic_mi(states[2], answer).item() > floor[:, 2].max()
    np.testing.assert_array_equal(floor, permuted_coordinates(states, answer, permutations=20))
    assert not np.array_equal(floor, permuted_coordinates(states, answer, permutations=20, seed=1))
    # Permuting both alike changes nothing, so permuting the states is the same control.
    constant = torch.ones(32, dtype=torch.float64)
    np.testing.assert_allclose(permuted_coordinates(states, constant, permutations=3), 0, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100), st.floats(5, 200))
def test_scaling_activations_is_dividing_sigma(scale, sigma):
    states, answer = normal(4, 20), normal(20, seed=1)
    swept = scale_sweep(states, answer, [scale], sigma=sigma)
    direct = hsic_mi(states * scale, answer * scale, sigma=sigma).numpy()
    np.testing.assert_allclose(swept[0], direct, rtol=1e-8, atol=1e-12)


def test_sigma_sweep():
    states, answer = normal(4, 20), normal(20, seed=1)
    swept = sigma_sweep(states, answer, [10.0, 50.0])
    np.testing.assert_allclose(swept[1], hsic_mi(states, answer).numpy())
    assert swept.shape == (2, 4)


def test_bad_input():
    with pytest.raises(ValueError, match="1 other answers: a spread takes at least 2"):
        mismatched_gold(normal(5, 8), normal(8), normal(1, 8))
