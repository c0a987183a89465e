import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mi_lens.generation.generate import generate
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.steering.separability import _pairs_by_problem, coordinates, probe_auc, separability
from mi_lens.traces.trace import Trace


def sample(shift: float, n: int = 300, d: int = 8, problems: int = 60, seed: int = 0):
    """Normal states whose first coordinate is shifted for execution thoughts."""
    rng = np.random.default_rng(seed)
    execution = rng.random(n) < 0.6
    x = rng.normal(size=(n, d))
    x[:, 0] += shift * execution
    problem = [f"problem {i}" for i in rng.integers(problems, size=n)]
    return torch.from_numpy(x), execution, problem


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 40))
@settings(deadline=None)
def test_pairs_are_those_of_the_auc(seed, problems, n):
    """Within one fold, pairs won over pairs are scikit-learn's AUC, ties half won."""
    rng = np.random.default_rng(seed)
    score = rng.integers(6, size=n).astype(float)
    execution = np.arange(n) % 2 == 0
    problem = np.unique(rng.integers(problems, size=n), return_inverse=True)[1]
    wins, pairs = _pairs_by_problem(score, execution, problem, np.zeros(n, dtype=int))
    expected = roc_auc_score(execution, score)
    assert wins.sum() / pairs.sum() == pytest.approx(expected, abs=1e-12)
    # Problems drawn anew weigh thoughts as scikit-learn's sample weights do.
    drawn = rng.integers(1, 4, size=len(wins)).astype(float)
    expected = roc_auc_score(execution, score, sample_weight=drawn[problem])
    weighted = (drawn @ wins @ drawn) / (drawn @ pairs @ drawn)
    assert weighted == pytest.approx(expected, abs=1e-12)


def test_thoughts_of_different_folds_are_not_compared():
    score = np.array([0.0, 1.0, 5.0, 4.0])
    execution = np.array([False, True, False, True])
    wins, pairs = _pairs_by_problem(score, execution, np.arange(4), np.array([0, 0, 1, 1]))
    assert pairs.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert wins.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_known_auc(shift):
    """Two normal clouds a distance apart: the best AUC is Phi(distance / sqrt 2)."""
    states, execution, problems = sample(shift, n=3000, problems=300)
    separable = probe_auc(states, execution, problems)
    best = 0.5 * (1 + torch.erf(torch.tensor(shift / 2))).item()
    assert separable.auc == pytest.approx(best, abs=0.02)
    assert separable.low < separable.auc < separable.high
    assert separable.low - 0.005 < best
    assert separable.high - separable.low < 0.06
    assert separable.execution + separable.others == 3000
    assert separable.problems == 300


def test_problems_are_held_out_whole():
    """A label that hangs on the problem alone cannot be told for a problem not seen."""
    rng = np.random.default_rng(0)
    problem = np.repeat(np.arange(40), 10)
    # One coordinate a problem: within seen problems it tells the label perfectly.
    states = torch.from_numpy(np.eye(40)[problem] + 1e-3 * rng.normal(size=(400, 40)))
    execution = (rng.permutation(40) % 2 == 0)[problem]
    together = probe_auc(states, execution, [str(p) for p in problem]).auc
    apart = probe_auc(states, execution, [str(i) for i in range(400)]).auc
    assert apart > 0.99
    assert together < 0.8


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=10, deadline=None)
def test_units_and_labels_do_not_matter(seed, scale):
    states, execution, problems = sample(0.5, seed=seed)
    separable = probe_auc(states, execution, problems)
    scaled = probe_auc(scale * states + 7 * scale, execution, problems)
    swapped = probe_auc(states, ~execution, problems)
    assert scaled.auc == pytest.approx(separable.auc, abs=2e-3)
    assert swapped.auc == pytest.approx(separable.auc, abs=2e-3)
    assert separable == probe_auc(states, execution, problems)


def test_errors():
    states, execution, problems = sample(1.0)
    with pytest.raises(ValueError, match="are all execution; expected both kinds"):
        probe_auc(states, np.ones(300, dtype=bool), problems)
    with pytest.raises(ValueError, match="folds=61 with 60 problems"):
        probe_auc(states, execution, problems, folds=61)
    with pytest.raises(ValueError, match="boundary states holds NaN"):
        probe_auc(states.index_fill(0, torch.tensor([4]), torch.nan), execution, problems)
    alone = [str(i) for i in range(8)]
    with pytest.raises(ValueError, match="no fold holds both"):
        probe_auc(torch.randn(8, 3), np.arange(8) % 2 == 0, alone, folds=8)


def test_what_the_boundary_token_tells(tiny_model, tokenizer):
    """All boundaries are one token, so its embedding tells nothing; later layers see the past."""
    texts = ["Okay.\n\nSo 84.\n\nWait, no.", "Now.\n\nAlternatively, swap.\n\nSo 79."]
    traces = [
        Trace.from_text(tokenizer, Problem(str(i), f"What is {i} * 7?", "84"), texts[i % 2])
        for i in range(12)
    ]
    names = ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_post"]
    by_hook = separability(tiny_model, traces, names)
    assert list(by_hook) == names
    assert by_hook[names[0]].auc == by_hook[names[0]].low == by_hook[names[0]].high == 0.5
    assert by_hook[names[1]].auc > 0.9
    assert (by_hook[names[1]].execution, by_hook[names[1]].others) == (12, 12)
    assert by_hook[names[1]].problems == 12
    silent = Trace.from_text(tokenizer, traces[0].problem or "", "no boundary")
    with pytest.raises(ValueError, match="no thoughts in 1 traces"):
        separability(tiny_model, [silent], names)


@pytest.mark.slow
def test_the_pocket_reasoner():
    model = load("pocket-reasoner")
    problems = load_problems("pocket", split="train", limit=40)
    traces = generate(model, problems, batch_size=40, progress=False)
    names = ["blocks.0.hook_resid_pre", "blocks.3.hook_resid_post"]
    by_hook = separability(model, traces, names, batch_size=40)
    assert by_hook[names[0]].auc < 0.6
    assert by_hook[names[1]].low > 0.85


def groups(n: int = 30):
    """Two far groups of thoughts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * n, 10))
    x[:n, 3] += 50
    return torch.from_numpy(x), np.arange(2 * n) < n


def test_principal_coordinates():
    states, first = groups()
    placed = coordinates(states)
    x = states.numpy() - states.numpy().mean(0)
    _, lengths, directions = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(abs(placed), abs(x @ directions[:2].T), atol=1e-9)
    np.testing.assert_allclose((placed**2).sum(0), lengths[:2] ** 2)
    assert abs(placed[first, 0].mean() - placed[~first, 0].mean()) > 40


def test_neighbours_stay_together():
    states, first = groups()
    placed = coordinates(states, method="tsne", seed=1)
    assert placed.shape == (60, 2)
    assert np.isfinite(placed).all()
    distance = np.linalg.norm(placed[:, None] - placed[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (first[distance.argmin(1)] == first).all()
    np.testing.assert_array_equal(placed, coordinates(states, method="tsne", seed=1))


def test_bad_coordinates():
    with pytest.raises(ValueError, match=r"shape \(2, 5\): expected \(3"):
        coordinates(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="holds NaN"):
        coordinates(torch.full((4, 5), torch.nan))
