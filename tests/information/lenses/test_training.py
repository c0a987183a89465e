"""Training a lens: its gradient, its gain on other problems, and what an interruption changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_lens
from mi_lens.information.lenses import training
from mi_lens.information.lenses.divergence import lens_divergences, summarized
from mi_lens.information.lenses.settings import LensTraining
from mi_lens.information.lenses.training import chosen, train_lens
from mi_lens.information.lenses.tuned_lens import identity_lens
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.traces.trace import Trace

HOOKS = [f"blocks.{n}.hook_resid_post" for n in range(3)]
QUICK = LensTraining(updates=4, traces_per_update=2, learning_rate=0.1)


@pytest.fixture(scope="module")
def traces(tokenizer):
    """Five traces of five problems, of different lengths."""
    texts = [
        "So the box is 84.",
        "It is 7.",
        "Wait, let me check. It is 12.",
        "9",
        "So 4 + 4 is 8.",
    ]
    problems = [Problem(f"p{i}", f"What is {i} * 7?", str(7 * i)) for i in range(5)]
    return [Trace.from_text(tokenizer, *pair) for pair in zip(problems, texts, strict=True)]


def dense(model, states):
    """Log probabilities of states behind the last block, by TransformerLens's own modules."""
    return model.unembed(model.ln_final(states[None]))[0].log_softmax(-1)


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1) / np.log(2)


def random_lens(model, fingerprint="", scale=0.05):
    draws = torch.Generator().manual_seed(1)
    lens = identity_lens(model, fingerprint)
    weight, bias = (
        scale * torch.randn(each.shape, generator=draws, dtype=each.dtype)
        for each in (lens.weight, lens.bias)
    )
    return replace(lens, weight=weight, bias=bias)


def test_the_gradient_is_that_of_finite_differences(tiny_model, traces):
    lens = random_lens(tiny_model)
    states = capture(tiny_model, traces[:1], HOOKS)[0]
    fit = training._Fit(tiny_model, lens, QUICK)
    fit.size = 3  # so that there are several chunks
    losses = fit._add_gradients(states)
    final = dense(tiny_model, states[HOOKS[2]])

    def loss(weight, bias, place):
        plain = states[HOOKS[place]]
        return float(kl(final, dense(tiny_model, plain + plain @ weight.T + bias)).mean())

    step = 1e-5
    for place in (0, 1):
        weight, bias = lens.weight[place], lens.bias[place]
        assert float(losses[place]) == pytest.approx(loss(weight, bias, place), rel=1e-9)
        assert fit.weight.grad is not None
        assert fit.shift.grad is not None
        for i, j in ((0, 0), (5, 17), (31, 2)):
            change = torch.zeros_like(weight)
            change[i, j] = step
            slope = (loss(weight + change, bias, place) - loss(weight - change, bias, place)) / (
                2 * step
            )
            assert float(fit.weight.grad[place, i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-8)
            change = torch.zeros_like(bias)
            change[i] = step
            slope = (loss(weight, bias + change, place) - loss(weight, bias - change, place)) / (
                2 * step
            )
            assert float(fit.shift.grad[place, i]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_the_first_update_changes_no_coordinate_by_more_than_its_share(tiny_model, traces):
    once = LensTraining(updates=1, traces_per_update=5, learning_rate=0.1)
    lens = train_lens(tiny_model, traces, once)
    states = capture(tiny_model, traces, HOOKS)
    for place, hook in enumerate(lens.hook_names):
        every = torch.cat([of_trace[hook] for of_trace in states])
        root = every.square().mean().sqrt()
        assert 0 < float((every @ lens.weight[place].T).abs().max()) <= 2 * 0.1 * root
        assert float(lens.bias[place].abs().max()) == pytest.approx(0.1 * float(root), rel=1e-3)
        by_weight = (every.abs().mean(-1).max() * 0.1).item()
        assert float((every @ lens.weight[place].T).abs().max()) <= by_weight * (1 + 1e-6)


@pytest.mark.parametrize("name", ["tiny_model", "tiny_bridge"])
def test_divergences_are_those_of_a_dense_evaluation(name, request, traces, tiny_model):
    lens = random_lens(tiny_model)
    found = lens_divergences(request.getfixturevalue(name), lens, traces[2])
    states = capture(tiny_model, traces[2:3], HOOKS)[0]
    final = dense(tiny_model, states[HOOKS[2]])
    assert list(found) == HOOKS[:2]
    for hook, (logit, tuned) in found.items():
        expected = [
            float(kl(final, dense(tiny_model, read)).mean())
            for read in (states[hook], lens.translate(hook, states[hook]))
        ]
        assert (logit, tuned) == pytest.approx(expected, rel=1e-6)  # a bridge's norm is in float32


def test_divergences_are_averaged_by_problem():
    rows = [{"a": (1.0, 0.5)}, {"a": (3.0, 0.5)}, {"a": (5.0, 1.0)}]
    found = summarized(rows, ["x", "x", "y"])["a"]
    assert (found.logit.mean, found.tuned.mean, found.gain.mean) == (3.5, 0.75, 2.75)
    assert found.logit.n == 2


def test_training_brings_the_lens_nearer_on_other_problems():
    model = mi_lens.load("pocket-reasoner")
    problems = mi_lens.load_problems("pocket", limit=12)
    traces = mi_lens.generate(model, problems, max_new_tokens=50, progress=False)
    quick = LensTraining(updates=15, traces_per_update=4, learning_rate=0.1)
    lens = train_lens(model, traces[:8], quick)
    rows = [lens_divergences(model, lens, trace) for trace in traces[8:]]
    for found in summarized(rows, [problem.key for problem in problems[8:]]).values():
        assert found.gain.low is not None
        assert found.gain.low > 0.5
    assert set(lens.problems) == {problem.key for problem in problems[:8]}


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(
    tiny_model, traces, tmp_path, monkeypatch, killed_at
):
    expected = train_lens(tiny_model, traces, QUICK)
    monkeypatch.setattr(training, "SAVED_EVERY", 0.0)
    learn, calls = training._Fit.learn, []

    def until_killed(self, states, update):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(update)
        learn(self, states, update)

    monkeypatch.setattr(training._Fit, "learn", until_killed)
    with pytest.raises(KeyboardInterrupt):
        train_lens(tiny_model, traces, QUICK, saved=tmp_path / "state")
    killed_at = None
    found = train_lens(tiny_model, traces, QUICK, saved=tmp_path / "state")
    assert calls == [0, 1, 2, 3]
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)
    with pytest.raises(ValueError, match="the state of another training"):
        train_lens(tiny_model, traces[:3], QUICK, saved=tmp_path / "state")
    (tmp_path / "state").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="set aside as state.damaged"):
        again = train_lens(tiny_model, traces, QUICK, saved=tmp_path / "state")
    assert torch.equal(again.weight, expected.weight)


def test_training_needs_no_gradients_to_be_on(tiny_model, traces):
    with torch.no_grad():
        lens = train_lens(tiny_model, traces, QUICK)
    assert not lens.weight.requires_grad
    assert lens.weight.abs().max() > 0
    assert lens.model == model_fingerprint(tiny_model)


def test_a_loss_that_is_not_finite_is_told(tiny_model, traces, monkeypatch):
    monkeypatch.setattr(
        training._Fit, "_add_gradients", lambda *_: torch.tensor([0.0, float("nan")])
    )
    with pytest.raises(ValueError, match=r"update 0: the divergence at blocks\.1\.hook_resid_post"):
        train_lens(tiny_model, traces, QUICK)


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    count=st.integers(1, 9),
    most=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_every_trace_comes_once_before_any_comes_again(lengths, count, most, seed):
    plain = LensTraining(traces_per_update=count, steps_per_update=most, seed=seed)
    whole = replace(plain, steps_per_update=10**6)
    together = min(count, len(lengths))
    seen = []
    for update in range(2 * len(lengths)):
        places = chosen(whole, lengths, update)
        assert all(steps == list(range(lengths[place])) for place, steps in places.items())
        seen += list(places)
        fewer = chosen(plain, lengths, update)
        assert sum(map(len, fewer.values())) == min(most, sum(lengths[p] for p in places))
        assert all(steps == sorted(set(steps)) for steps in fewer.values())
        assert fewer.keys() <= places.keys()
        assert fewer == chosen(plain, lengths, update)
    if len(lengths) % together == 0:
        assert sorted(seen[: len(lengths)]) == list(range(len(lengths)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"updates": 0}, "updates=0: expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0: expected a finite number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LensTraining(**wrong)
