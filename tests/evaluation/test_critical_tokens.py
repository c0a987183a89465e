from dataclasses import replace

import numpy as np
import pytest
import torch

import mi_lens.evaluation.critical_tokens
from mi_lens.evaluation.critical_tokens import Rollouts, critical_gain, mean_gain, roll_out
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.sampling import Sampling
from mi_lens.problems.grading.grader import Grade
from mi_lens.problems.problem import Problem

PROBLEMS = [Problem(str(i), f"What is 12 * {i}?", str(12 * i)) for i in range(3)]
SAMPLED = Condition((), Sampling(1.0))


@pytest.fixture(scope="module")
def traces(tiny_model):
    requests = [Request(p, SAMPLED, seed=3, max_new_tokens=12) for p in PROBLEMS]
    return generate(tiny_model, requests, progress=False)


def odd(text, gold):
    """Stands for grading: a random model answers nothing right."""
    return len(text) % 2 == 1


def test_agrees_with_generations_one_by_one(tiny_model, traces, monkeypatch):
    monkeypatch.setattr(
        mi_lens.evaluation.critical_tokens,
        "grade",
        lambda text, problem: Grade(odd(text, problem), None, "exact", ""),
    )
    steps = [[0, 7], [], [4]]
    rollouts = roll_out(tiny_model, traces, steps, samples=4, max_new_tokens=12, batch_size=5)
    assert [(rollout.trace, rollout.step) for rollout in rollouts] == [
        (traces[0].id, 0),
        (traces[0].id, 7),
        (traces[2].id, 4),
    ]
    for rollout in rollouts:
        trace = next(t for t in traces if t.id == rollout.trace)
        assert rollout.problem == trace.problem.key
        assert rollout.token == trace.token_ids[rollout.step]
        for kept, outcomes in ((1, rollout.kept), (0, rollout.forbidden)):
            acts = () if kept else (ForbidAt(rollout.step, rollout.token),)
            # Not 3, the trace's own seed.
            for seed, outcome in zip((0, 1, 2, 4), outcomes, strict=True):
                request = Request(
                    trace.problem,
                    Condition(acts, Sampling(1.0)),
                    seed=seed,
                    max_new_tokens=12,
                    prefix=trace.token_ids[: rollout.step + kept],
                )
                (alone,) = generate(tiny_model, [request], progress=False)
                assert odd(alone.text, "") == outcome
                assert (alone.token_ids[rollout.step] == rollout.token) == bool(kept)
        ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids[: rollout.step]]])
        chances = tiny_model(ids)[0, -1].softmax(-1)
        assert rollout.probability == pytest.approx(float(chances[rollout.token]), rel=1e-9)
        assert rollout.gain == pytest.approx(np.mean(rollout.forbidden) - np.mean(rollout.kept))


def test_its_own_seed_would_write_the_trace_again(tiny_model, traces):
    request = Request(
        PROBLEMS[0], SAMPLED, seed=3, max_new_tokens=12, prefix=traces[0].token_ids[:4]
    )
    (again,) = generate(tiny_model, [request], progress=False)
    assert again.token_ids == traces[0].token_ids


def rollouts_at(problem, step, kept, forbidden):
    outcomes = (tuple(map(bool, arm)) for arm in (kept, forbidden))
    return Rollouts(f"trace {problem}", problem, step, 0, "x", 0.5, *outcomes)


def test_means_are_over_problems():
    rollouts = [
        rollouts_at("a", 0, [False] * 4, [True] * 4),
        rollouts_at("a", 1, [False] * 4, [False] * 4),
        rollouts_at("b", 0, [True] * 4, [False] * 4),
    ]
    gain = mean_gain(rollouts)
    assert gain.mean == pytest.approx((0.5 - 1) / 2)
    assert gain.n == 2
    assert critical_gain(rollouts).mean == pytest.approx((1 - 1) / 2)


def test_the_critical_step_does_not_overstate_itself():
    """Coins: the largest of eight gains is above nothing; what other continuations say is not."""
    rng = np.random.default_rng(0)
    rollouts = [
        rollouts_at(str(p), step, rng.random(16) < 0.5, rng.random(16) < 0.5)
        for p in range(200)
        for step in range(8)
    ]
    naive = np.mean([max(o.gain for o in rollouts if o.problem == str(p)) for p in range(200)])
    gain = critical_gain(rollouts)
    assert naive > 0.2
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < 0 < gain.high
    assert gain.high - gain.low < 0.1


def test_a_critical_step_is_found():
    rng = np.random.default_rng(0)
    rollouts = [
        rollouts_at(
            str(p), step, rng.random(16) < (0.1 if step == p % 8 else 0.5), rng.random(16) < 0.5
        )
        for p in range(100)
        for step in range(8)
    ]
    gain = critical_gain(rollouts)
    assert gain.low is not None
    assert gain.mean is not None
    assert 0.1 < gain.low < gain.mean < 0.5


def test_errors(tiny_model, traces):
    def attempt(steps, which=traces[:1], **settings):
        roll_out(tiny_model, which, steps, max_new_tokens=12, **settings)

    with pytest.raises(ValueError, match="continuations would all be the same"):
        attempt([[0]], sampling=Sampling(0.0))
    with pytest.raises(ValueError, match="samples=1: expected at least 2"):
        attempt([[0]], samples=1)
    with pytest.raises(ValueError, match="1 traces with 2 lists"):
        attempt([[0], [1]])
    with pytest.raises(ValueError, match="at least one step"):
        attempt([[]])
    with pytest.raises(ValueError, match="expected 0 to 11, the index of a generated token"):
        attempt([[12]])
    with pytest.raises(ValueError, match="another prompt than style='seal' gives"):
        attempt([[0]], style="seal")
    end = tiny_model.tokenizer.eos_token_id
    ended = replace(traces[0], token_ids=(*traces[0].token_ids[:3], end))
    with pytest.raises(ValueError, match="ends it: there is no continuation"):
        attempt([[3]], [ended])
    with pytest.raises(ValueError, match="has no problem"):
        attempt([[3]], [replace(traces[0], problem=None)])
    with pytest.raises(ValueError, match="neither a gold answer nor tests"):
        attempt([[3]], [replace(traces[0], problem=replace(PROBLEMS[0], answer=""))])
