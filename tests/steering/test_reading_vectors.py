import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mi_lens.common.resampling import split_into_folds
from mi_lens.problems.problem import Problem
from mi_lens.steering.reading_vectors import (
    MEANS,
    PAIRED,
    UNPAIRED,
    _first_component,
    _pair,
    compare_directions,
    reading_vectors,
)
from mi_lens.steering.seal import extract_steering_vectors
from mi_lens.traces.trace import Trace


def sample(shift=2.0, nuisance=0.0, n=400, d=6, problems=50, seed=0):
    """Normal states; execution moved along the first axis, problems along the second."""
    rng = np.random.default_rng(seed)
    problem = rng.integers(problems, size=n)
    execution = rng.random(n) < 0.5
    x = rng.normal(size=(n, d))
    x[:, 0] += shift * execution
    x[:, 1] += nuisance * rng.normal(size=problems)[problem]
    return torch.from_numpy(x), execution, [str(p) for p in problem]


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_the_first_component_is_the_largest_eigenvector(seed, n, d):
    x = np.random.default_rng(seed).normal(size=(n, d))
    direction, explained = _first_component(x)
    rows = x / np.linalg.norm(x, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    assert explained == pytest.approx(values[-1] / values.sum())
    if d == 1 or values[-1] - values[-2] > 1e-6:
        assert abs(direction @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)
    assert (rows @ direction).mean() >= -1e-12
    if (rows @ direction).mean() > 1e-9:  # Else no side has most of them.
        np.testing.assert_allclose(_first_component(5 * x)[0], direction, atol=1e-6)


def test_pairs_stand_in_one_group_and_once():
    rng = np.random.default_rng(0)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    execution = np.array([1, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    first, second = _pair(np.flatnonzero(execution), np.flatnonzero(~execution), group, rng)
    assert len(first) == 2  # One of problem 0, none of 1, one of 2.
    assert (group[first] == group[second]).all()
    assert execution[first].all()
    assert not execution[second].any()
    assert len(set(first)) == len(set(second)) == 2


def test_a_planted_direction_is_found():
    states, execution, problems = sample(shift=4.0, n=2000)
    vectors = compare_directions(states, execution, problems)
    best = 0.5 * (1 + torch.erf(torch.tensor(2.0))).item()  # Two normal clouds 4 apart.
    for name in (MEANS, PAIRED, UNPAIRED):
        assert float(vectors.directions[name][0]) > 0.98
        assert float(vectors.directions[name].norm()) == pytest.approx(1)
        assert vectors.auc[name].auc == pytest.approx(best, abs=0.01)
        assert vectors.auc[name].low <= vectors.auc[name].auc <= vectors.auc[name].high
    assert set(vectors.gain) == set(vectors.cosine) == set(vectors.explained) == {PAIRED, UNPAIRED}


def test_what_problems_share_misleads_pairs_of_different_problems():
    """What sets problems apart is the first component of random pairs, not of a problem's own."""
    states, execution, problems = sample(nuisance=20.0, n=600)
    vectors = compare_directions(states, execution, problems)
    assert abs(float(vectors.directions[UNPAIRED][1])) > 0.98
    assert abs(float(vectors.directions[PAIRED][0])) > 0.9
    assert vectors.auc[UNPAIRED].auc < 0.7
    assert vectors.auc[PAIRED].auc > 0.8
    high = vectors.gain[UNPAIRED].high
    assert high is not None
    assert high < 0


def test_nothing_to_read_is_chance():
    states, execution, problems = sample(shift=0.0, n=2000)
    for auc in compare_directions(states, execution, problems).auc.values():
        assert auc.auc == pytest.approx(0.5, abs=0.05)


def test_held_out_auc_by_scikit_learn():
    """Directions are made without the fold, and only its thoughts are compared."""
    states, execution, problems = sample(shift=1.0, n=120, problems=20)
    vectors = compare_directions(states, execution, problems, folds=4, seed=3)
    order = {p: i for i, p in enumerate(dict.fromkeys(problems))}
    index = np.array([order[p] for p in problems])
    fold = split_into_folds(index, 4, np.random.default_rng(3))
    wins = pairs = 0.0
    x = states.numpy()
    for f in range(4):
        train, test = fold != f, fold == f
        s = x[train & execution].mean(0) - x[train & ~execution].mean(0)
        n = execution[test].sum() * (~execution[test]).sum()
        wins += n * roc_auc_score(execution[test], x[test] @ s)
        pairs += n
    assert vectors.auc[MEANS].auc == pytest.approx(wins / pairs, abs=1e-12)
    gain = vectors.gain[PAIRED]
    assert gain.mean == pytest.approx(vectors.auc[PAIRED].auc - vectors.auc[MEANS].auc)


TEXTS = ["Okay.\n\nSo 84.\n\nWait, no.\n\n12 * 7.", "Now.\n\nAlternatively, swap.\n\nSo 79."]


def test_the_difference_of_means_is_seals(tiny_model, tokenizer):
    traces = [
        Trace.from_text(tokenizer, Problem(str(i), f"What is {i} * 7?", "84"), TEXTS[i % 2])
        for i in range(12)
    ]
    names = ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"]
    by_hook = reading_vectors(tiny_model, traces, names, batch_size=5)
    seal = extract_steering_vectors(tiny_model, traces, names[1:])[names[1]].vector
    vectors = by_hook[names[1]]
    torch.testing.assert_close(vectors.directions[MEANS], seal / seal.norm(), rtol=1e-9, atol=1e-12)
    assert vectors.cosine[PAIRED] == pytest.approx(
        float(vectors.directions[PAIRED] @ seal / seal.norm()), abs=1e-9
    )
    assert vectors.hook_name == names[1]
    # All boundaries are one token: there is no difference, and no direction.
    nothing = by_hook[names[0]]
    assert nothing.auc[PAIRED].auc == nothing.auc[MEANS].auc == 0.5
    assert float(nothing.directions[PAIRED].norm()) == 0
    assert nothing.cosine[PAIRED] is None
    silent = Trace.from_text(tokenizer, traces[0].problem or "", "no boundary")
    with pytest.raises(ValueError, match="no thoughts in 1 traces"):
        reading_vectors(tiny_model, [silent], names)


def test_errors():
    states, execution, problems = sample()
    with pytest.raises(ValueError, match="are all execution thoughts; expected both kinds"):
        compare_directions(states, np.ones(400, dtype=bool), problems)
    with pytest.raises(ValueError, match="folds=51 with 50 problems"):
        compare_directions(states, execution, problems, folds=51)
    bad = states.index_fill(0, torch.tensor([4]), torch.nan)
    with pytest.raises(ValueError, match="boundary states holds NaN"):
        compare_directions(bad, execution, problems)
    alone = [str(i) for i in range(400)]
    with pytest.raises(ValueError, match="no problem has an execution and another thought"):
        compare_directions(states, execution, alone)
