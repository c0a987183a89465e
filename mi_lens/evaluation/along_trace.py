"""What asking a model along a trace, and continuing it from there, say: numbers on its steps.

The figure of a trace and the page's viewer show the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_lens.common.intervals import estimate_share, estimate_unpaired_difference
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.critical_tokens import Rollouts
from mi_lens.evaluation.resample_thoughts import ResampledThought
from mi_lens.information.per_trace.belief import Belief


@dataclass(frozen=True)
class BeliefLine:
    """Belief in one answer along a trace.

    Attributes:
        name: Which answer: "gold", "final", or "gold and final" where both are one text.
        answer: The answer.
        probabilities: The probability that the model writes it if asked there, one per cut.
    """

    name: str
    answer: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Effect:
    """What a token or a thought does to a trace's success, by continuations with and without it.

    Attributes:
        start: The first step of the token or the thought.
        stop: The step after its last one.
        effect: Share of right continuations with it, less the share without it, with Newcombe's
            interval over continuations.
    """

    start: int
    stop: int
    effect: Estimate


def belief_lines(belief: Belief) -> tuple[BeliefLine, ...]:
    """Belief in the gold and in the final answer at every cut; one line where they are one text."""
    answers = {"gold": belief.gold, "final": belief.final}
    if belief.gold and belief.final and belief.gold.answer == belief.final.answer:
        answers = {"gold and final": belief.gold}
    return tuple(
        BeliefLine(name, answer.answer, tuple(answer.probabilities.tolist()))
        for name, answer in answers.items()
        if answer is not None
    )


def effects_along(
    trace: str, rollouts: Sequence[Rollouts] = (), resampled: Sequence[ResampledThought] = ()
) -> tuple[Effect, ...]:
    """The effects of tokens and thoughts of one trace.

    Args:
        trace: The trace's id.
        rollouts: What `roll_out` gives; those of other traces are left out.
        resampled: What `resample_thoughts` gives; those of other traces are left out, and those of
            which too few continuations say something else to have an importance.
    """
    tokens = [
        Effect(r.step, r.step + 1, _difference(r.kept, r.forbidden))
        for r in rollouts
        if r.trace == trace
    ]
    thoughts = [
        Effect(r.thought.start, r.thought.stop, _effect_of(r))
        for r in resampled
        if r.trace == trace and r.importance is not None
    ]
    return (*tokens, *thoughts)


def _effect_of(thought: ResampledThought) -> Estimate:
    """The effect of a thought: with it, and with replacements that say something else."""
    with_it = [outcome.correct for outcome in thought.kept]
    without = [r.outcome.correct for r in thought.replacements if r.differs]
    return _difference(with_it, without)


def _difference(with_it: Sequence[bool], without: Sequence[bool]) -> Estimate:
    shares = (estimate_share(list(map(float, each))) for each in (with_it, without))
    return estimate_unpaired_difference(*shares)
