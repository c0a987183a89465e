"""What the studies of SEAL's steering share: settings, vectors, controls, premise and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import mi_lens
from experiments.labels import ClaimTest, Premise
from experiments.study import THINKING_WORDS, Study, baseline_traces
from experiments.summaries import affine, outcomes, with_interval
from mi_lens.common.statistics import Estimate, estimate_crossed
from mi_lens.evaluation.comparison import GAIN, Arm, compare

PUBLISHED = 20 / 28  # The depth at which SEAL steers R1-Distill-Qwen-1.5B: the input of block 20.
# Published for that model on MATH-500: accuracy 67.0 to 78.0 %, tokens 4526 to 3154.
PUBLISHED_GAIN, PUBLISHED_SAVING = 0.11, 1 - 3154 / 4526
RESULTS = "steering"  # The folder of results that all steering studies share.
NOT_STEERED, AT_RANDOM = "without steering", "with random directions"
UNREFLECTED = mi_lens.Condition(
    (mi_lens.Suppress(THINKING_WORDS),), name="thinking words forbidden"
)


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
    """An arm's outcome less that of random controls, paired by problem; over both at random."""
    control = np.array([outcomes(control_arm, field) for control_arm in controls])
    return estimate_crossed(outcomes(arm, field) - control)


def excess_premise(evaluation: mi_lens.Evaluation) -> Premise:
    """SEAL's premise, put to the test by forbidding the words that open reflections."""
    change = compare(
        evaluation.arm(UNREFLECTED.name), evaluation.arm(evaluation.names[0])
    ).difference
    return Premise(
        text="SEAL presupposes that reflections are excess, that without them accuracy keeps "
        f"within {100 * GAIN:.0f} points: with the words that open them forbidden it changes by "
        f"{with_interval(change, 100)} points.",
        otherwise="premise not met",
        value=affine(change, 100),
        least=-100 * GAIN,
    )


def steering_tests(
    gain: Mapping[str, Estimate], saving: Mapping[str, Estimate], before: float | None
) -> tuple[ClaimTest, ...]:
    """The tests of a gain in accuracy and of a saving of tokens, each against several controls.

    Args:
        gain: What steering is compared with, to the change of accuracy as a share.
        saving: The same to the change of tokens per trace.
        before: Tokens per trace without steering; a twentieth of them would matter.
    """
    return (
        *(
            ClaimTest(f"accuracy less that {name}", affine(change, 100), 100 * GAIN, "points")
            for name, change in gain.items()
        ),
        *(
            ClaimTest(
                f"tokens of a trace {name} less those with it",
                affine(change, -1),
                0.05 * (before or 0.0),
                "tokens",
            )
            for name, change in saving.items()
        ),
    )


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
