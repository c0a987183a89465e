"""What the studies of SEAL's steering share: settings, vectors, controls and verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

import mi_lens
from experiments.study import Study, Verdict, baseline_traces
from experiments.summaries import outcomes, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import Arm

PUBLISHED = 20 / 28  # The depth at which SEAL steers R1-Distill-Qwen-1.5B: the input of block 20.
# Published for that model on MATH-500: accuracy 67.0 to 78.0 %, tokens 4526 to 3154.
GAIN, SAVING = 0.11, 1 - 3154 / 4526
RESULTS = "steering"  # The folder of results that all steering studies share.


@dataclass(frozen=True, kw_only=True)
class SteeringStudy(Study):
    """What to run.

    Attributes:
        vector_problems: Source of the problems that vectors are made from, in the forms of
            `problems`; None means the train split of `problems`. It must share no problem with
            those that are evaluated.
        vector_limit: Number of problems for the vectors; None means three times `limit`.
        depth: Fraction of the model's depth; the study steers the input of the block there.
    """

    vector_problems: str | None = None
    vector_limit: int | None = None
    depth: float = PUBLISHED

    def scope(self) -> str:
        """The number of problems evaluated, and of those that vectors are made from."""
        return f"{super().scope()}, vectors of {self.vector_limit or 3 * self.limit} others"

    def hook_name(self, model) -> str:
        """The hook name of the block input at `depth`."""
        layer = round(self.depth * model.cfg.n_layers)
        if not 0 < layer < model.cfg.n_layers:
            raise ValueError(
                f"depth={self.depth} is the input of block {layer} of {model.cfg.n_layers}; "
                "expected one after the first, which has read no context"
            )
        return block_inputs(model)[layer - 1]


def block_inputs(model) -> list[str]:
    """The hook names of block inputs, without the first: it has one state for equal boundaries."""
    return [f"blocks.{layer}.hook_resid_pre" for layer in range(1, model.cfg.n_layers)]


def vector_traces(
    config: SteeringStudy, model, evaluated: Sequence[mi_lens.Problem]
) -> list[mi_lens.Trace]:
    """Greedy traces of the problems that vectors are made from; all studies share them.

    SEAL takes as many right as wrong traces; here all traces are taken. The study
    `experiments.vector_stability` shows what that changes.

    Raises:
        ValueError: If any of these problems is evaluated too; no trace is made then.
    """
    problems = mi_lens.load_problems(
        config.vector_problems or config.problems,
        limit=config.vector_limit or 3 * config.limit,
        split="train",
        seed=config.seed,
    )
    common = mi_lens.overlap(problems, evaluated)
    if common:
        raise ValueError(
            f"{len(common)} of {len(problems)} problems for vectors are evaluated too, "
            f"{common[0][0].id} first (a file has no splits): give --vector-problems"
        )
    return baseline_traces(config, model, problems, "vectors")


def random_directions(
    vector: mi_lens.SteeringVector, draws: int, seed: int, name: str = "random"
) -> list[mi_lens.Condition]:
    """Control conditions: random directions with the norm and the hook name of a vector."""
    return [
        mi_lens.Condition(
            (mi_lens.Steer(vector, variant="random", seed=seed + draw),), name=f"{name} {draw + 1}"
        )
        for draw in range(draws)
    ]


def held_to(arm: Arm, budget: int) -> Arm:
    """The arm as it would be under a smaller budget.

    No decision depends on the budget, so a trace under it is the beginning of the longer trace.
    A trace that is cut off gives no answer.
    """
    results = [
        result
        if result.length <= budget
        else replace(result, tokens=budget, correct=False, answer=None, stop_reason="length")
        for result in arm.results
    ]
    return Arm(arm.name, tuple(results), {**arm.setting, "max_new_tokens": budget})


def beyond_random(arm: Arm, controls: Sequence[Arm], field: str) -> Estimate:
    """An arm's outcome less the mean of its controls, paired by problem."""
    control = np.mean([outcomes(control_arm, field) for control_arm in controls], 0)
    return estimate_mean((outcomes(arm, field) - control).tolist())


def steering_verdict(gain: int, saving: int, excluded: bool) -> Verdict:
    """Whether steering raises accuracy and saves tokens, as claimed.

    Args:
        gain: 1 where accuracy rises, -1 where it falls, 0 where neither is known.
        saving: 1 where tokens fall, -1 where they rise, 0 where neither is known.
        excluded: Whether the intervals exclude the published gain and saving.
    """
    if gain > 0 and saving > 0:
        return "with"
    if gain > 0 or saving > 0:
        return "in part"
    return "against" if gain < 0 or saving < 0 or excluded else "open"


def as_published_excluded(accuracy: Estimate, tokens: Estimate, before: float | None) -> bool:
    """Whether the intervals of both changes exclude the changes published for SEAL.

    Args:
        accuracy: Change of accuracy, as a share.
        tokens: Change of tokens per trace.
        before: Tokens per trace without steering.
    """
    if tokens.low is None or before is None:
        return False
    return gain_excluded(accuracy) and tokens.low > -SAVING * before


def gain_excluded(accuracy: Estimate) -> bool:
    """Whether the interval of a change in accuracy excludes the published gain."""
    if accuracy.low is None or accuracy.high is None:
        return False
    # A bootstrap of equal values has no width. Where none of n changed, three in n still may.
    equal = accuracy.low == accuracy.high
    return accuracy.high + (3 / accuracy.n if equal else 0) < GAIN


def short_table(evaluation: mi_lens.Evaluation) -> str:
    """One line per condition: accuracy, tokens, and their differences from the first condition."""
    base = evaluation.arm(evaluation.names[0])
    width = max(map(len, evaluation.names)) + 2
    lines = [
        f"{'condition':<{width}}{'accuracy':>9}  {'less baseline':<24}{'p (Holm)':>9}  tokens less"
    ]
    accuracy = 100 * float(outcomes(base, "correct").mean())
    lines.append(
        f"{base.name:<{width}}{accuracy:>9.1f}  {'':<33}  of {with_interval(base.tokens())}"
    )
    lines += [
        f"{row.name:<{width}}{100 * row.accuracy:>9.1f}  {with_interval(row.difference, 100):<24}"
        f"{row.adjusted:>9.2g}  {with_interval(row.tokens)}"
        for row in evaluation.comparisons()
    ]
    return "\n".join(lines)
