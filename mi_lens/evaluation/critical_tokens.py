"""Does a token decide whether a trace succeeds? Compares continuations with and without it.

At a step of a trace, one set of continuations keeps the token that was written there; another set
must not write it. If the success rate is higher without the token, the token is critical. Every
continuation is generated, which is slow. The tokens before the step are kept: if they already rule
out success, no token at the step is critical. The evidence is weak: another token often says the
same, and one that was nearly certain is replaced by one that the model would hardly write.
`mi_lens.evaluation.resample_thoughts` lets the model write whole thoughts anew.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mi_lens.common.by_problem import mean_over_problems
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.continuations import (
    fresh_seeds,
    require_continuable,
    require_samples,
)
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.hook_names import last_block_output
from mi_lens.models.model import Model
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.prompts import PromptStyle
from mi_lens.states.capture import capture
from mi_lens.states.uncertainty import next_token_uncertainty
from mi_lens.traces.trace import Trace


@dataclass(frozen=True)
class Rollouts:
    """Continuations of a trace from one step.

    Attributes:
        trace: Id of the trace.
        problem: Key of its problem (`Problem.key`).
        step: Step of the token that was kept or forbidden.
        token: Id of that token.
        text: That token as text.
        probability: Probability of that token at temperature 1. If it is almost 1, continuations
            without the token are texts that the model would hardly ever write.
        kept: Whether each continuation with the token is right.
        forbidden: Whether each continuation without it is right.
    """

    trace: str
    problem: str
    step: int
    token: int
    text: str
    probability: float
    kept: tuple[bool, ...]
    forbidden: tuple[bool, ...]

    @property
    def gain(self) -> float:
        """Share of right continuations without the token, minus the share with it."""
        return float(np.mean(self.forbidden) - np.mean(self.kept))


def roll_out(
    model: Model,
    traces: Sequence[Trace],
    steps: Sequence[Sequence[int]],
    *,
    samples: int = 16,
    sampling: Sampling | None = None,
    style: PromptStyle = "chat",
    max_new_tokens: int = 512,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
    engine: Engine | None = None,
) -> list[Rollouts]:
    """Samples continuations with and without the tokens at given steps of traces.

    Seeds count up from `seed` and skip the trace's own seed, which would give the same trace again.
    Both kinds of continuations use the same seeds. The interventions of the trace do not act on the
    continuations.

    Args:
        model: The model, with its tokenizer. It reads how probable the tokens were.
        traces: Finished traces with their problems.
        steps: For every trace, the steps whose tokens are tested.
        samples: Number of continuations of each kind per step.
        sampling: How continuations are drawn; None means temperature 1.
        style: The prompt style of the traces.
        max_new_tokens: Budget of a whole trace, including the tokens that are kept.
        seed: The first seed.
        batch_size: See `generate`.
        progress: See `generate`.
        engine: What generates the continuations; None means our own loop on the model.

    Returns:
        One element per trace and step: traces in order, steps ascending and without repetition.

    Raises:
        ValueError: If there is not one list of steps per trace; all lists are empty; a trace has no
            problem, nothing to grade it by, or a prompt of another style; a step lies outside its
            trace or ends it; or continuations would be greedy.
    """
    sampling = Sampling(1.0) if sampling is None else sampling
    tests = _steps_to_test(traces, steps, samples, sampling)
    ends = end_of_text_ids(model)
    requests = []
    for trace, trace_steps in tests:
        problem = require_continuable(model.tokenizer, trace, style)
        _require_tokens(trace, trace_steps, ends)
        seeds = fresh_seeds(seed, samples, trace.seed)
        for step in trace_steps:
            for condition, prefix in _with_and_without(trace, step, sampling):
                requests += [
                    Request(problem, condition, style, s, max_new_tokens, prefix=prefix)
                    for s in seeds
                ]
    continuations = generate(engine or model, requests, batch_size=batch_size, progress=progress)
    right = [grade(t.text, t.require_problem("to grade it by")).correct for t in continuations]
    outcomes = iter(np.array(right).reshape(-1, 2, samples).tolist())
    rollouts = []
    for trace, trace_steps in tests:
        assert trace.problem is not None
        probabilities = _probabilities(model, trace)
        for step in trace_steps:
            kept, forbidden = next(outcomes)
            token = trace.token_ids[step]
            rollouts.append(
                Rollouts(
                    trace=trace.id,
                    problem=trace.problem.key,
                    step=step,
                    token=token,
                    text=model.tokenizer.decode([token]),
                    probability=float(probabilities[step]),
                    kept=tuple(kept),
                    forbidden=tuple(forbidden),
                )
            )
    return rollouts


def _steps_to_test(
    traces: Sequence[Trace], steps: Sequence[Sequence[int]], samples: int, sampling: Sampling
) -> list[tuple[Trace, list[int]]]:
    """The traces that have steps to test, each with its steps, ascending."""
    require_samples(sampling, samples)
    if len(steps) != len(traces) or not any(steps):
        raise ValueError(
            f"{len(traces)} traces with {len(steps)} lists of {sum(map(len, steps))} steps; "
            "expected one list per trace, and at least one step"
        )
    pairs = zip(traces, steps, strict=True)
    return [(trace, sorted(set(trace_steps))) for trace, trace_steps in pairs if trace_steps]


def _with_and_without(
    trace: Trace, step: int, sampling: Sampling
) -> tuple[tuple[Condition, tuple[int, ...]], ...]:
    """Condition and prefix that keep the token at a step, and those that forbid it."""
    forbid = ForbidAt(step, trace.token_ids[step])
    return (
        (Condition((), sampling, "kept"), trace.token_ids[: step + 1]),
        (Condition((forbid,), sampling, "forbidden"), trace.token_ids[:step]),
    )


def _require_tokens(trace: Trace, steps: Sequence[int], ends: set[int]) -> None:
    for step in steps:
        if not 0 <= step < len(trace):
            raise ValueError(
                f"step {step} of trace {trace.id}: expected 0 to {len(trace) - 1}, the index of a "
                "generated token"
            )
        if trace.token_ids[step] in ends:
            raise ValueError(f"step {step} of trace {trace.id} ends it: there is no continuation")


def _probabilities(model: Model, trace: Trace) -> Float[np.ndarray, " step"]:
    last = last_block_output(model)
    (states,) = capture(model, [trace], [last])
    return 2.0 ** -next_token_uncertainty(model, trace, states[last])["surprisal"]


def mean_gain(rollouts: Sequence[Rollouts]) -> Estimate:
    """The mean gain without the tokens: over the steps of each problem, then over problems."""
    return mean_over_problems([(r.problem, r.gain) for r in rollouts])


def critical_gain(rollouts: Sequence[Rollouts]) -> Estimate:
    """The mean gain at the most critical step of each trace, without selection bias.

    The largest of several noisy gains overestimates the true one. So one half of the continuations
    selects the step, and the other half measures the gain there; then the halves swap roles.
    """
    by_trace: dict[str, list[Rollouts]] = defaultdict(list)
    for rollout in rollouts:
        by_trace[rollout.trace].append(rollout)
    gains = []
    for of_trace in by_trace.values():
        for half in (0, 1):
            critical = of_trace[int(np.argmax([_half_gain(r, half) for r in of_trace]))]
            gains.append((critical.problem, _half_gain(critical, 1 - half)))
    return mean_over_problems(gains)


def _half_gain(rollouts: Rollouts, half: int) -> float:
    """The gain measured on every second continuation."""
    return float(np.mean(rollouts.forbidden[half::2]) - np.mean(rollouts.kept[half::2]))
