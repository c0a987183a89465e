"""Probes for gates and early exits, trained on a model's own traces.

A probe is a logistic regression on standardised states, with an L2 penalty of weight d. Its AUC and
the quantiles of its probabilities are of held-out problems, all of whose traces are held out
together, since the states of a trace are alike; the probe itself is then fitted on all. What a gate
or an exit by it means depends on that AUC. States x d numbers of float64 are in memory.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.common.resampling import problem_index, split_into_folds
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.information.per_trace.trajectories import mi_trajectories
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.row import Rewound
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.model import Model
from mi_lens.problems.endings import AnswerSite
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.problem import Problem
from mi_lens.states.answer_state import answer_state
from mi_lens.states.capture import capture
from mi_lens.steering.separability import finite_states, held_out_auc
from mi_lens.traces.correctness import known_correctness
from mi_lens.traces.think_block import boundary_steps
from mi_lens.traces.trace import Trace

PARTS = 100  # The quantiles of a probe lie at 0, 1/100, 2/100, and so on.
Labels = Literal["trace", "trial"]


def train_gate_probe(
    model: Model,
    traces: Sequence[Trace],
    hook_name: str,
    *,
    rule: PeakRule = PAPER_RULE,
    site: AnswerSite = "solution_last",
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> StateProbe:
    """Trains a linear probe to tell MI peaks from other steps, for `Gate(probe=...)`.

    MI needs the gold answer, so no generation can know its peaks. The probe guesses them from the
    state alone.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems, each of at least four steps.
        hook_name: Where the states are: of the width of the residual stream.
        rule: Picks the peaks of each trace's MI trajectory at this hook name.
        site: Which state stands for the answer; see `answer_state`.
        folds: Number of folds, 3 or more.
        seed: Seeds the folds and the interval.
        batch_size: Number of traces read together.

    Raises:
        ValueError: If a trace has no problem or is too short, there are fewer problems than folds,
            or the steps that a probe is trained on are all peaks or none.
    """
    problems = [trace.require_problem("to know its gold answer") for trace in traces]
    states, peaks, of = [], [], []
    for start in range(0, len(traces), batch_size):
        batch = slice(start, start + batch_size)
        answers = answer_state(model, problems[batch], [hook_name], site=site)
        captured = capture(model, traces[batch], [hook_name], batch_size=batch_size)
        for problem, answer, of_trace in zip(problems[batch], answers, captured, strict=True):
            is_peak = np.zeros(len(of_trace[hook_name]), dtype=bool)
            is_peak[find_peaks(mi_trajectories(of_trace, answer)[0], rule)] = True
            states.append(of_trace[hook_name])
            peaks.append(is_peak)
            of += [problem] * len(is_peak)
    if not states:
        raise ValueError("no traces; expected finished traces with their problems")
    target = np.concatenate(peaks)
    return _trained(model, hook_name, f"peak by {rule!r}", states, target, of, folds, seed)


def train_correctness_probe(
    model: Model,
    traces: Sequence[Trace],
    hook_name: str,
    *,
    labels: Labels = "trace",
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> StateProbe:
    """Trains a probe for `ProbeExit` on the states at boundaries inside the think block.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems, which no evaluation of the probe may use.
        hook_name: A residual state, such as "blocks.20.hook_resid_post".
        labels: "trace" labels every state of a trace by the trace's answer. "trial" labels a state
            by the trial answer at its boundary, which traces under
            `EarlyExit(1.0, at="boundary", trials=None)` have in their events.
        folds: Number of folds, 3 or more.
        seed: Seeds the folds and the interval.
        batch_size: See `mi_lens.capture`.

    Raises:
        ValueError: If a trace has no problem or nothing to grade it by; if there are no labelled
            boundaries, or all are right or all wrong; or if there are fewer problems than folds.
    """
    if labels not in get_args(Labels):
        raise ValueError(f"labels={labels!r}: expected one of {get_args(Labels)}")
    labelled = [(trace, _labels(model, trace, labels)) for trace in traces]
    labelled = [(trace, of_trace) for trace, of_trace in labelled if of_trace]
    if not labelled:
        raise ValueError(
            f"no boundary inside the think block has a label ({labels!r}): add traces, or for "
            "'trial' generate under EarlyExit(1.0, at='boundary', trials=None)"
        )
    captured = capture(
        model,
        [trace for trace, _ in labelled],
        [hook_name],
        steps=[list(of_trace) for _, of_trace in labelled],
        batch_size=batch_size,
    )
    right = np.array([label for _, of_trace in labelled for label in of_trace.values()], bool)
    of = [
        trace.require_problem("to hold it out by") for trace, by_step in labelled for _ in by_step
    ]
    states = [each[hook_name] for each in captured]
    return _trained(model, hook_name, f"right {labels}", states, right, of, folds, seed)


def _labels(model: Model, trace: Trace, labels: Labels) -> dict[int, bool]:
    """By step, whether the answer is right; steps are those behind boundaries inside the block."""
    problem = trace.require_problem("to grade it by")
    row = Rewound.of(model.tokenizer, trace).row
    steps = [place + 1 for place in boundary_steps(model.tokenizer, trace.token_ids)]
    steps = [step for step in steps if step < len(trace) and row.thinking(step)]
    if labels == "trace":
        correct = known_correctness(trace)
        if correct is None:
            raise ValueError(f"trace {trace.id}: nothing tells whether its answer is right")
        return dict.fromkeys(steps, correct)
    answers = {event["step"]: event["answer"] for event in trace.events if event["what"] == "trial"}
    grades = {
        answer: grade(f"\\boxed{{{answer}}}", problem).correct
        for answer in {answers[step] for step in steps if step in answers}
    }
    return {step: grades[answers[step]] for step in steps if step in answers}


def _trained(
    model: Model,
    hook_name: str,
    target: str,
    states: Sequence[Float[Tensor, "_ d"]],
    positive: Bool[np.ndarray, " state"],
    of: Sequence[Problem],
    folds: int,
    seed: int,
) -> StateProbe:
    """The probe that is fitted on all states, with what held-out problems say of it.

    Args:
        model: The model whose states they are.
        hook_name: Where they are.
        target: What the probe is to tell.
        states: States of each trace.
        positive: Whether each state is of the target.
        of: The problem of each state.
        folds: Number of folds.
        seed: Seeds the folds and the interval.
    """
    x = finite_states(torch.cat(list(states)))
    problem = problem_index([each.key for each in of], len(x))
    fold = split_into_folds(problem, folds, np.random.default_rng(seed))
    score = np.empty(len(x))
    for held_out in (fold == number for number in range(folds)):
        weights, bias = _fitted(x[~held_out], positive[~held_out], target)
        score[held_out] = x[held_out] @ weights + bias
    if all(len(set(positive[fold == number].tolist())) < 2 for number in range(folds)):
        raise ValueError(
            f"no fold holds states of both kinds ({target}, or not); add problems, or take fewer "
            "folds"
        )
    auc, _ = held_out_auc(score, positive, problem, fold, seed=seed)
    weights, bias = _fitted(x, positive, target)
    return StateProbe(
        hook_name=hook_name,
        weights=weights.tolist(),
        bias=bias,
        model=model_fingerprint(model),
        target=target,
        auc=auc.auc,
        auc_low=auc.low,
        auc_high=auc.high,
        positives=int(positive.sum()),
        others=int((~positive).sum()),
        quantiles=np.quantile(1 / (1 + np.exp(-score)), np.linspace(0, 1, PARTS + 1)).tolist(),
        problems={each.key: each.id for each in of},
    )


def _fitted(
    x: Float[np.ndarray, "state d"], positive: Bool[np.ndarray, "state"], target: str
) -> tuple[Float[np.ndarray, "d"], float]:
    """Weights and bias of a logistic regression, for states as they are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(positive)) < 2:
        raise ValueError(
            f"of {len(positive)} states to train a probe on, {int(positive.sum())} are of the "
            f"target ({target}); expected some of both kinds: add traces"
        )
    scaler = StandardScaler().fit(x)
    regression = LogisticRegression(C=1 / x.shape[1], max_iter=1000, tol=1e-6)
    regression.fit(scaler.transform(x), positive)
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(np.ravel(regression.intercept_)[0] - weights @ scaler.mean_)
