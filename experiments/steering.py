"""What the studies of SEAL's steering share: vectors of other problems, a folder of results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

import mi_lens
from experiments.study import Study, Verdict, baseline_traces, outcomes, said
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import Arm

PUBLISHED = 20 / 28  # The depth at which SEAL steers R1-Distill-Qwen-1.5B: the input of block 20.
# What is published of that model on MATH-500: accuracy 67.0 to 78.0 %, tokens 4526 to 3154.
KEPT = "steering"  # Where all of them keep their results.
GAIN, SAVING = 0.11, 1 - 3154 / 4526


@dataclass(frozen=True, kw_only=True)
class SteeringStudy(Study):
    """What to run.

    Attributes:
        vector_problems: What vectors are made from, in the forms of `problems`; None takes the
            train split of those. Problems that are evaluated too are refused.
        vector_limit: How many; None takes three times `limit`.
        depth: Where to steer: the input of the block at this fraction of the model's depth.
    """

    vector_problems: str | None = None
    vector_limit: int | None = None
    depth: float = PUBLISHED

    def scope(self) -> str:
        """See `Study.scope`."""
        return f"{super().scope()}, vectors of {self.vector_limit or 3 * self.limit} others"

    def hook_name(self, model) -> str:
        """The hook at `depth`."""
        layer = round(self.depth * model.cfg.n_layers)
        if not 0 < layer < model.cfg.n_layers:
            raise ValueError(
                f"depth={self.depth} is the input of block {layer} of {model.cfg.n_layers}; "
                "expected one after the first, which has read no context"
            )
        return block_inputs(model)[layer - 1]


def block_inputs(model) -> list[str]:
    """The inputs of all blocks but the first: there, all like boundaries have one state."""
    return [f"blocks.{layer}.hook_resid_pre" for layer in range(1, model.cfg.n_layers)]


def vector_traces(
    config: SteeringStudy, model, evaluated: Sequence[mi_lens.Problem]
) -> list[mi_lens.Trace]:
    """Greedy traces of the problems that vectors are made from; made once for all studies.

    All of them, where SEAL takes as many right as wrong ones: what that would change is in
    `experiments.vector_stability`.

    Raises:
        ValueError: If any of them is evaluated too, before a trace is made.
    """
    problems = mi_lens.load_problems(
        config.vector_problems or config.problems,
        limit=config.vector_limit or 3 * config.limit, split="train", seed=config.seed,
    )  # fmt: skip
    shared = mi_lens.overlap(problems, evaluated)
    if shared:
        raise ValueError(
            f"{len(shared)} of {len(problems)} problems for vectors are evaluated too, "
            f"{shared[0][0].id} first (a file has no splits): give --vector-problems"
        )
    return baseline_traces(config, model, problems, "vectors")


def random_directions(
    vector: mi_lens.SteeringVector, draws: int, seed: int, name: str = "random"
) -> list[mi_lens.Condition]:
    """The control: directions drawn at random, of a vector's norm, at its place."""
    return [
        mi_lens.Condition(
            (mi_lens.Steer(vector, variant="random", seed=seed + draw),), name=f"{name} {draw + 1}"
        )
        for draw in range(draws)
    ]


def held_to(arm: Arm, budget: int) -> Arm:
    """What an arm would have been with a smaller budget.

    No decision depends on the budget, so a trace under it is the beginning of this one; cut off,
    it has given no answer.
    """
    results = [
        one if one.tokens <= budget else
        replace(one, tokens=budget, correct=False, answer=None, stop_reason="length")
        for one in arm.results
    ]  # fmt: skip
    return Arm(arm.name, tuple(results), {**arm.setting, "max_new_tokens": budget})


def beyond_random(arm: Arm, controls: Sequence[Arm], field: str) -> Estimate:
    """What an arm has over the mean of its controls, paired by problem."""
    control = np.mean([outcomes(one, field) for one in controls], 0)
    return estimate_mean((outcomes(arm, field) - control).tolist())


def judged(gain: int, saving: int, excluded: bool) -> Verdict:
    """Whether steering raises accuracy and saves tokens, as claimed.

    Args:
        gain: 1 where accuracy rises, -1 where it falls, 0 where neither is known.
        saving: 1 where tokens are saved, -1 where more are written, 0 likewise.
        excluded: Whether the intervals leave out a gain and a saving as published.
    """
    if gain > 0 and saving > 0:
        return "with"
    if gain > 0 or saving > 0:
        return "in part"
    return "against" if gain < 0 or saving < 0 or excluded else "open"


def as_published_excluded(accuracy: Estimate, tokens: Estimate, before: float | None) -> bool:
    """Whether intervals of both changes leave out what is published of SEAL.

    Args:
        accuracy: Its change, as a share.
        tokens: Their change, a trace.
        before: Tokens a trace without steering.
    """
    if tokens.low is None or before is None:
        return False
    return gain_excluded(accuracy) and tokens.low > -SAVING * before


def gain_excluded(accuracy: Estimate) -> bool:
    """Whether the interval of a change in accuracy leaves out the published one."""
    if accuracy.low is None or accuracy.high is None:
        return False
    # Where none of n changed, as many as three in n may: a bootstrap of equal values has no width.
    alike = accuracy.low == accuracy.high
    return accuracy.high + (3 / accuracy.n if alike else 0) < GAIN


def short_table(found: mi_lens.Evaluation) -> str:
    """A line a condition: accuracy and tokens, and how they differ from the first's."""
    base = found.arm(found.names[0])
    width = max(map(len, found.names)) + 2
    lines = [
        f"{'condition':<{width}}{'accuracy':>9}  {'less baseline':<24}{'p (Holm)':>9}  tokens less"
    ]
    accuracy = 100 * float(outcomes(base, "correct").mean())
    lines.append(f"{base.name:<{width}}{accuracy:>9.1f}  {'':<33}  of {said(base.tokens())}")
    lines += [
        f"{one.name:<{width}}{100 * one.accuracy:>9.1f}  {said(one.difference, 100):<24}"
        f"{one.adjusted:>9.2g}  {said(one.tokens)}"
        for one in found.comparisons()
    ]
    return "\n".join(lines)
