"""Does a token decide whether a trace succeeds? Continuations with it and without it.

From a step of a trace, one set of continuations keeps the token that was written there and another
may not write it. Where success rises without the token, the token is critical. Continuations are
sampled anew, so the price is that of generating; and what stands before the step stays as it was:
a trace that is lost already cannot be rescued later.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Plan, Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.sampling import Sampling
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.problem import Problem
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
        step: Which of its tokens was kept or forbidden.
        token: That token's id.
        text: That token as text.
        probability: Of that token at temperature 1. Without a token that is almost certain, a text
            goes on as the model hardly ever would.
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
        """Success without the token less success with it."""
        return float(np.mean(self.forbidden) - np.mean(self.kept))


def roll_out(
    model,
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
) -> list[Rollouts]:
    """Samples continuations with and without the tokens at some steps of traces.

    Seeds count up from `seed` and pass over the trace's own, which would write the same trace
    again; kept and forbidden share them. Interventions of the trace do not act on continuations.

    Args:
        model: The model, with its tokenizer.
        traces: Finished traces with their problems.
        steps: For every trace, which of its tokens to try.
        samples: Continuations of each kind a step.
        sampling: How continuations are drawn; temperature 1 if None.
        style: The prompt style of the traces.
        max_new_tokens: Budget of a whole trace, what is kept of it included.
        seed: First of the seeds.
        batch_size: See `generate`.
        progress: See `generate`.

    Returns:
        One for each trace and step, in order.

    Raises:
        ValueError: If traces and steps do not go together, a trace has no problem, nothing to grade
            it by, or another prompt than `style` gives, a step lies outside its trace or ends it,
            continuations would be greedy, or there is nothing to try.
    """
    drawn = Sampling(1.0) if sampling is None else sampling
    if drawn.temperature == 0:
        raise ValueError("temperature=0: continuations would all be the same; expected above 0")
    if samples < 2:
        raise ValueError(f"samples={samples}: expected at least 2 continuations a step")
    if len(steps) != len(traces) or not any(steps):
        raise ValueError(
            f"{len(traces)} traces with {len(steps)} lists of {sum(map(len, steps))} steps; "
            "expected a list for each, and at least one step"
        )
    tried = [(trace, sorted(set(some))) for trace, some in zip(traces, steps, strict=True) if some]
    plan, ends = Plan(model), end_of_text_ids(model)
    requests = []
    for trace, some in tried:
        problem = _require_continuable(plan, trace, some, style, ends)
        for step in some:
            token = trace.token_ids[step]
            without = Condition((ForbidAt(step, token),), drawn, "forbidden")
            for kept, condition in ((1, Condition((), drawn, "kept")), (0, without)):
                prefix = trace.token_ids[: step + kept]
                requests += [
                    Request(problem, condition, style, s, max_new_tokens, prefix=prefix)
                    for s in _seeds(seed, samples, trace.seed)
                ]
    made = generate(model, requests, batch_size=batch_size, progress=progress)
    right = [grade(t.text, t.require_problem("to grade it by")).correct for t in made]
    outcomes = iter(np.array(right).reshape(-1, 2, samples).tolist())
    found = []
    for trace, some in tried:
        assert trace.problem is not None
        chances = _probabilities(model, trace)
        for step in some:
            kept, forbidden = next(outcomes)
            token = trace.token_ids[step]
            found.append(
                Rollouts(
                    trace=trace.id,
                    problem=trace.problem.key,
                    step=step,
                    token=token,
                    text=model.tokenizer.decode([token]),
                    probability=float(chances[step]),
                    kept=tuple(kept),
                    forbidden=tuple(forbidden),
                )
            )
    return found


def _require_continuable(
    plan: Plan, trace: Trace, steps: Sequence[int], style: PromptStyle, ends: set[int]
) -> Problem:
    problem = trace.require_problem("to grade continuations by")
    grade(trace.text, problem)  # refuses one without a gold answer before anything is generated
    if plan.prompt(Request(problem, style=style))[1] != trace.prompt_ids:
        raise ValueError(
            f"trace {trace.id} has another prompt than style={style!r} gives with this tokenizer; "
            "give the style it was generated in"
        )
    for step in steps:
        if not 0 <= step < len(trace):
            raise ValueError(
                f"step {step} of trace {trace.id}: expected 0 to {len(trace) - 1}, the index of a "
                "generated token"
            )
        if trace.token_ids[step] in ends:
            raise ValueError(f"step {step} of trace {trace.id} ends it: there is no continuation")
    return problem


def _seeds(first: int, samples: int, own: int) -> list[int]:
    return [s for s in range(first, first + samples + 1) if s != own][:samples]


def _probabilities(model, trace: Trace) -> Float[np.ndarray, " step"]:
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    (states,) = capture(model, [trace], [last])
    return 2.0 ** -next_token_uncertainty(model, trace, states[last])["surprisal"]


def mean_gain(rollouts: Sequence[Rollouts]) -> Estimate:
    """Mean gain of forbidding: over a problem's steps, then over problems with an interval."""
    return _over_problems([(one.problem, one.gain) for one in rollouts])


def critical_gain(rollouts: Sequence[Rollouts]) -> Estimate:
    """Mean gain at each trace's most critical step, which other continuations chose.

    The largest of several noisy gains overstates itself. So one half of the continuations chooses
    the step, the other half says what is gained there; then the halves change parts.
    """
    by_trace: dict[str, list[Rollouts]] = defaultdict(list)
    for one in rollouts:
        by_trace[one.trace].append(one)
    gains = []
    for some in by_trace.values():
        for choosing in (0, 1):
            chosen = int(np.argmax([_half(one, choosing) for one in some]))
            gains.append((some[chosen].problem, _half(some[chosen], 1 - choosing)))
    return _over_problems(gains)


def _half(one: Rollouts, which: int) -> float:
    return float(np.mean(one.forbidden[which::2]) - np.mean(one.kept[which::2]))


def _over_problems(gains: Sequence[tuple[str, float]]) -> Estimate:
    by_problem: dict[str, list[float]] = defaultdict(list)
    for problem, gain in gains:
        by_problem[problem].append(gain)
    return estimate_mean([float(np.mean(some)) for some in by_problem.values()])
