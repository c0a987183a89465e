import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mi_lens.generation.generate import generate
from mi_lens.interventions.early_exit import EarlyExit
from mi_lens.models.loading import load
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.steering.probes import _trained, train_correctness_probe

HOOK = "blocks.2.hook_resid_post"
BOX = "\n</think>\n\nThe result is \\boxed{"
BOXED = re.compile(r"boxed\{([^{}]+)\}")


@pytest.fixture(scope="module")
def model():
    return load("pocket-reasoner")


@pytest.fixture(scope="module")
def written(model):
    """Six finished traces with trial answers."""
    tries = EarlyExit(1.0, "boundary", final=BOX, trials=None)
    problems = load_problems("pocket", limit=10)
    traces = generate(model, problems, tries, max_new_tokens=300, progress=False)
    finished = [trace for trace in traces if BOXED.search(trace.text)][:6]
    assert len(finished) == 6
    return finished


@pytest.fixture(scope="module")
def traces(written):
    """The same; every second is right by its gold answer, the others are wrong."""
    answers = [BOXED.findall(trace.text)[-1] for trace in written]
    return [
        replace(trace, problem=replace(trace.problem, answer=answer if i % 2 else "-1"))
        for i, (trace, answer) in enumerate(zip(written, answers, strict=True))
    ]


def boundaries(model, trace):
    """Steps behind a blank line inside the think block."""
    decode, ids = model.tokenizer.decode, trace.token_ids
    return [
        step
        for step in range(1, len(ids))
        if "\n\n" in decode([ids[step - 1]]) and "</think>" not in decode(ids[:step])
    ]


def pipeline(states, right):
    """The log odds of scikit-learn's own pipeline."""
    regression = LogisticRegression(C=1 / states.shape[1], max_iter=1000, tol=1e-6)
    return make_pipeline(StandardScaler(), regression).fit(states, right).decision_function(states)


def test_it_is_a_logistic_regression_on_states_at_boundaries(model, traces):
    probe = train_correctness_probe(model, traces, HOOK, folds=3)
    steps = [boundaries(model, trace) for trace in traces]
    states = capture(model, traces, [HOOK], steps=steps)
    x = torch.cat([of_trace[HOOK] for of_trace in states]).double().numpy()
    right = np.repeat([grade(t.text, t.problem).correct for t in traces], list(map(len, steps)))
    assert (probe.positives, probe.others) == (right.sum(), (~right).sum())
    odds = x @ np.array(probe.weights) + probe.bias
    assert odds == pytest.approx(pipeline(x, right), abs=1e-3)
    assert probe.problems == {trace.problem.key: trace.problem.id for trace in traces}
    assert probe.auc_low <= probe.auc <= probe.auc_high


def test_labels_by_trial_answers(model, written):
    probe = train_correctness_probe(model, written, HOOK, labels="trial", folds=3)
    events = [
        event["answer"] == trace.problem.answer
        for trace in written
        for event in trace.events
        if event["what"] == "trial"
    ]
    assert (probe.positives, probe.others) == (sum(events), len(events) - sum(events))
    assert probe.target == "right trial"


def test_a_known_auc(model):
    """States of right answers are shifted by 2: the best AUC is Phi(sqrt 2); folds are problems."""
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.5
    x = rng.normal(size=(2000, 6)) * [1, 5, 1, 1, 0, 1] + [0, 3, 0, 0, 7, 0]
    x[:, 0] += 2 * right
    of = [Problem(f"{i}", f"{i}?", "1") for i in rng.integers(200, size=2000)]
    probe = _trained(model, HOOK, "right", [torch.from_numpy(x)], right, of, 5, 0)
    assert probe.auc == pytest.approx(0.921, abs=0.015)
    assert probe.auc_low < probe.auc < probe.auc_high
    assert x @ np.array(probe.weights) + probe.bias == pytest.approx(pipeline(x, right), abs=1e-3)
    # A label of the problem alone cannot be told from states of other problems.
    by_problem = np.array([int(problem.id) % 2 == 0 for problem in of])
    noise = torch.from_numpy(rng.normal(size=(2000, 6)))
    probe = _trained(model, HOOK, "right", [noise], by_problem, of, 5, 0)
    assert probe.auc == pytest.approx(0.5, abs=0.06)


def test_what_cannot_be_trained_is_named(model, traces):
    alike = [replace(trace, problem=replace(trace.problem, answer="-1")) for trace in traces]
    with pytest.raises(ValueError, match=r" 0 are of the target \(right trace\)"):
        train_correctness_probe(model, alike, HOOK, folds=3)
    bare = [replace(trace, events=()) for trace in traces]
    with pytest.raises(ValueError, match="no boundary inside the think block has a label"):
        train_correctness_probe(model, bare, HOOK, labels="trial")
    with pytest.raises(ValueError, match=r"folds=5 with 2 problems"):
        train_correctness_probe(model, traces[:2], HOOK)
    nothing = replace(traces[0], problem=replace(traces[0].problem, answer=""))
    with pytest.raises(ValueError, match="nothing tells whether its answer is right"):
        train_correctness_probe(model, [nothing], HOOK)
