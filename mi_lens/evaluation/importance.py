"""How far two sets of continuations differ in their final answers, and how far chance alone goes.

Few continuations of one and the same distribution differ too. So every divergence comes with the
mean divergence of the same outcomes when they are dealt out at random.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from mi_lens.problems.grading.grader import grade
from mi_lens.problems.notation import normalised
from mi_lens.traces.trace import Trace

SMOOTHING = 1.0  # Added to the count of every answer, as in Laplace's rule.
DEALS = 4000  # Random deals of the outcomes behind a divergence by chance.
Measure = Literal["divergence", "variation", "accuracy"]


@dataclass(frozen=True)
class Outcome:
    """How a continuation ends.

    Attributes:
        answer: Its answer in one notation; the gold answer if it is right; None if it has none,
            which counts as an answer of its own.
        correct: Whether it is right.
    """

    answer: str | None
    correct: bool


def outcome_of(trace: Trace) -> Outcome:
    """The outcome of a trace with a problem.

    Raises:
        ValueError: If the trace has no problem, or nothing to grade it by.
    """
    problem = trace.require_problem("to grade it by")
    graded = grade(trace.text, problem)
    if graded.correct:
        return Outcome(problem.answer, True)
    return Outcome(None if graded.extracted is None else normalised(graded.extracted), False)


@dataclass(frozen=True)
class Importance:
    """How the final answers with a thought differ from those without it.

    Attributes:
        kept: Number of continuations with the thought.
        without: Number of continuations without it.
        divergence: D(without || with) in bits, of answer counts to which `SMOOTHING` is added.
        divergence_by_chance: The mean divergence when the same outcomes are dealt out at random.
        variation: Total variation of the two shares of answers, between 0 and 1.
        variation_by_chance: As for the divergence.
        accuracy: Share of right continuations with the thought, less the share without it.
    """

    kept: int
    without: int
    divergence: float
    divergence_by_chance: float
    variation: float
    variation_by_chance: float
    accuracy: float

    def value(self, measure: Measure) -> float:
        """The divergence or variation beyond chance, or the difference in accuracy.

        Raises:
            ValueError: If there is no such measure.
        """
        if measure not in get_args(Measure):
            raise ValueError(f"measure={measure!r}: expected one of {get_args(Measure)}")
        if measure == "accuracy":
            return self.accuracy
        return getattr(self, measure) - getattr(self, f"{measure}_by_chance")


def importance(kept: Sequence[Outcome], without: Sequence[Outcome]) -> Importance:
    """Compares the outcomes of continuations with a thought and without it.

    With counts c_a of the V answers that either set gives, the smoothed share of an answer is
    (c_a + s) / (n + s V), s = `SMOOTHING`; the divergence is sum_a q_a log2(q_a / p_a), q without
    the thought and p with it. Deals at random keep both numbers of continuations.

    Args:
        kept: Outcomes with the thought.
        without: Outcomes without it.

    Raises:
        ValueError: If there are none of either.
    """
    if not kept or not without:
        raise ValueError(
            f"{len(kept)} outcomes with the thought and {len(without)} without it; expected some "
            "of both"
        )
    sets = [Counter(outcome.answer for outcome in outcomes) for outcomes in (kept, without)]
    answers = list(dict.fromkeys([*sets[0], *sets[1]]))
    counts = np.array([[each[answer] for answer in answers] for each in sets])
    pooled = counts.sum(0)
    dealt = np.random.default_rng(0).multivariate_hypergeometric(pooled, len(kept), size=DEALS)
    rates = [float(np.mean([outcome.correct for outcome in each])) for each in (kept, without)]
    return Importance(
        kept=len(kept),
        without=len(without),
        divergence=float(_divergence(counts[None, 0], counts[None, 1])[0]),
        divergence_by_chance=float(_divergence(dealt, pooled - dealt).mean()),
        variation=float(_variation(counts[None, 0], counts[None, 1])[0]),
        variation_by_chance=float(_variation(dealt, pooled - dealt).mean()),
        accuracy=rates[0] - rates[1],
    )


Counts = Int[np.ndarray, "deal answer"]


def _divergence(kept: Counts, without: Counts) -> Float[np.ndarray, " deal"]:
    p, q = (_shares(counts + SMOOTHING) for counts in (kept, without))
    return (q * np.log2(q / p)).sum(-1)


def _variation(kept: Counts, without: Counts) -> Float[np.ndarray, " deal"]:
    return abs(_shares(kept) - _shares(without)).sum(-1) / 2


def _shares(counts: np.ndarray) -> Float[np.ndarray, "deal answer"]:
    return counts / counts.sum(-1, keepdims=True)
