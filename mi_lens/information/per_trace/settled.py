"""When the answer that a trace gives in the end is settled, and how much it writes after that."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.belief import Belief
from mi_lens.problems.notation import normalised

When = Literal["from the start", "later", "never", "no final answer"]


@dataclass(frozen=True)
class Settled:
    """When a trace's final answer is settled.

    Attributes:
        when: "from the start", at the cut before the first generated token; "later"; "never", not
            even where the thinking ends; or "no final answer", if the trace gives none.
        step: The first cut from which on the answer is settled: the number of tokens generated
            before it. It was settled somewhere after the cut before this one. None if never.
        tokens_after: Tokens of thinking after that cut. None if never.
        share_after: The same, as a share of the thinking. None if never, or without thinking.
    """

    when: When
    step: int | None = None
    tokens_after: int | None = None
    share_after: float | None = None


def settled(belief: Belief, threshold: int | float | None = None) -> Settled:
    """The first step from which on the final answer of a trace is settled.

    At the cut of that step and at all later ones the model gives the final answer if it is forced
    to answer. A cut that comes between and does not unsettles it.

    Args:
        belief: The belief of a trace, as `answer_belief` returns it.
        threshold: None asks what the model would say: the final answer, in the same notation or in
            another (`mi_lens.problems.notation`). A number asks for the probability of the final
            answer, written as the trace writes it: it must be at least so large.

    Raises:
        ValueError: If the threshold is not above 0 and at most 1.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: expected a probability above 0, at most 1")
    if belief.final is None:
        return Settled("no final answer")
    if threshold is None:
        wanted = normalised(belief.final.answer)
        holds = [said is not None and normalised(said) == wanted for said in belief.said]
    else:
        holds = [bool(p >= threshold) for p in belief.final.probabilities]
    first = max((i + 1 for i, held in enumerate(holds) if not held), default=0)
    if first == len(holds):
        return Settled("never")
    step, end = belief.cuts[first], belief.cuts[-1]
    when = "later" if first else "from the start"
    return Settled(when, step, end - step, (end - step) / end if end else None)


@dataclass(frozen=True)
class SettledSummary:
    """When final answers are settled, over traces.

    Attributes:
        traces: Number of traces, by when their final answer is settled.
        tokens_after: Tokens of thinking after that, averaged over problems. Traces whose answer is
            never settled before they end count with none; those without a final answer or without
            thinking do not count.
        share_after: The same, as a share of the thinking.
    """

    traces: dict[When, int]
    tokens_after: Estimate
    share_after: Estimate


def settled_summary(
    beliefs: Sequence[Belief], threshold: int | float | None = None, *, seed: int = 0
) -> SettledSummary:
    """How much traces write after their final answer is settled, with intervals over problems.

    Args:
        beliefs: The beliefs of the traces. One without a problem is a problem of its own.
        threshold: See `settled`.
        seed: Seed of the intervals.
    """
    found = [(belief, settled(belief, threshold)) for belief in beliefs]
    counts = Counter(of_trace.when for _, of_trace in found)
    by_problem: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for belief, of_trace in found:
        if of_trace.when != "no final answer" and belief.cuts[-1]:
            after = of_trace.tokens_after or 0, of_trace.share_after or 0.0
            by_problem[belief.problem or f"trace {belief.trace}"].append(after)
    means = [np.mean(values, axis=0) for values in by_problem.values()]
    tokens, share = (estimate_mean([float(m[i]) for m in means], seed=seed) for i in range(2))
    return SettledSummary({when: counts[when] for when in get_args(When)}, tokens, share)
