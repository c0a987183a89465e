"""Probes for gates, held against scikit-learn's own; those for exits have a file of their own."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mi_lens.generation.generate import generate
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.peak_rules import TopK
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.steer import Steer
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.problems.problem import Problem
from mi_lens.states.answer_state import answer_state
from mi_lens.states.capture import capture
from mi_lens.steering.probes import train_gate_probe

HOOK = "blocks.1.hook_resid_post"
PROBLEMS = [Problem(f"set/{i}", f"What is {i} * 7?", str(7 * i), str(7 * i)) for i in range(8)]


@pytest.fixture(scope="module")
def traces(tiny_model):
    return generate(tiny_model, PROBLEMS, max_new_tokens=16, progress=False)


@pytest.fixture(scope="module")
def probe(tiny_model, traces):
    return train_gate_probe(tiny_model, traces, HOOK, rule=TopK(4), folds=4)


def test_the_probe_is_scikit_learns(tiny_model, traces, probe):
    states = [of[HOOK].double() for of in capture(tiny_model, traces, [HOOK])]
    peaks = []
    for trace, of_trace in zip(traces, states, strict=True):
        answer = answer_state(tiny_model, trace.require_problem(""), HOOK)[HOOK]
        mi = hsic_mi(of_trace, answer)
        is_peak = np.zeros(len(mi), dtype=bool)
        is_peak[np.argsort(-mi.numpy())[:4]] = True
        peaks.append(is_peak)
    x, peak = torch.cat(states).numpy(), np.concatenate(peaks)
    regression = LogisticRegression(C=1 / 32, max_iter=1000, tol=1e-6)
    expected = make_pipeline(StandardScaler(), regression).fit(x, peak).predict_proba(x)[:, 1]
    got = probe.probabilities(torch.cat(states)).numpy()
    assert got == pytest.approx(expected, abs=1e-9)
    assert (probe.positives, probe.others) == (peak.sum(), (~peak).sum())


def test_it_says_what_it_was_made_from(tiny_model, probe):
    assert probe.model == model_fingerprint(tiny_model)
    assert probe.problems == {problem.key: problem.id for problem in PROBLEMS}
    assert probe.target == "peak by TopK(k=4)"
    assert 0 <= probe.auc_low <= probe.auc <= probe.auc_high <= 1
    assert list(probe.quantiles) == sorted(probe.quantiles)


def test_its_problems_are_refused_and_others_gated(tiny_model, probe, tmp_path):
    probe.save(tmp_path / "probe.safetensors")
    steer = Steer(torch.ones(32), HOOK, at="all", inside_think=False)
    gate = Gate(steer, probe=tmp_path / "probe.safetensors", above=probe.quantile(0.5))
    with pytest.raises(ValueError, match="set/3 is one of those that the probe of Gate"):
        generate(tiny_model, PROBLEMS[3:], gate, progress=False)
    other = Problem("set/9", "What is 9 * 7?", "63", "63")
    (trace,) = generate(tiny_model, [other], gate, max_new_tokens=30, progress=False)
    is_open = [event for event in trace.events if event["what"] == "gate"]
    assert 0 < sum(event["last"] - event["step"] + 1 for event in is_open) < len(trace) - 1


def test_what_cannot_be_trained(tiny_model, traces):
    with pytest.raises(ValueError, match="no traces"):
        train_gate_probe(tiny_model, [], HOOK)
    with pytest.raises(ValueError, match="folds=5 with 2 problems"):
        train_gate_probe(tiny_model, traces[:2], HOOK, rule=TopK(4))
    with pytest.raises(
        ValueError, match=r"target \(peak by TopK\(k=999\)\); expected some of both kinds"
    ):
        train_gate_probe(tiny_model, traces, HOOK, rule=TopK(999))
    bare = generate(tiny_model, ["no problem"], max_new_tokens=5, progress=False)
    with pytest.raises(ValueError, match="has no problem to know its gold answer"):
        train_gate_probe(tiny_model, bare, HOOK)
