"""The share of right answers in two groups of traces, compared."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mi_lens.common.intervals import (
    estimate_difference,
    estimate_share,
    estimate_unpaired_difference,
)
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.two_groups import SIDES, Pairing, pair
from mi_lens.traces.correctness import Labels, known_correctness
from mi_lens.traces.trace import Trace

Outcomes = list[bool | None]


@dataclass(frozen=True)
class Accuracies:
    """The share of right answers in two groups of traces.

    Attributes:
        first: The share in the first group: over the traces of each problem, then over the compared
            problems, with Wilson's interval.
        second: The same in the second group.
        difference: first - second, with Tango's interval over pairs of problems, or with Newcombe's
            if the groups share no problem.
        pairing: Which traces were compared.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    pairing: Pairing


def outcomes_of(
    first: Sequence[Trace], second: Sequence[Trace]
) -> tuple[Labels, tuple[Outcomes, Outcomes]]:
    """Whether each trace of two groups is right, by one kind of label for both.

    These are the authors' labels if every trace has one. Otherwise answers are graded, where there
    is a gold answer; programs are not run, and count as unknown.
    """
    labelled = all(trace.is_correct is not None for trace in (*first, *second))
    labels: Labels = "author" if labelled else "grader"

    def outcome(trace: Trace) -> bool | None:
        if labels == "grader" and trace.problem is not None and trace.problem.tests is not None:
            return None
        return known_correctness(trace, labels)

    return labels, (list(map(outcome, first)), list(map(outcome, second)))


def compare_accuracy(
    first: Sequence[Trace], second: Sequence[Trace], outcomes: tuple[Outcomes, Outcomes]
) -> Accuracies | None:
    """Compares the accuracy of two groups, within the problems that they share.

    Args:
        first: Traces.
        second: Other traces.
        outcomes: Whether each trace of either group is right; traces of unknown outcome are left
            out.

    Returns:
        The accuracies; None if a group has no trace of known outcome.
    """
    known = [
        [(trace, right) for trace, right in zip(group, of_group, strict=True) if right is not None]
        for group, of_group in zip((first, second), outcomes, strict=True)
    ]
    if not all(known):
        return None
    pairing = pair(*([trace for trace, _ in of_group] for of_group in known))
    shares, trials = [], []
    for side, of_group in zip(SIDES, known, strict=True):
        right = [float(outcome) for _, outcome in of_group]
        shares.append(_per_problem(pairing, side, right))
        traces = Counter(s.problem for s in pairing.strata for _ in getattr(s, side))
        trials.append(min(traces.values()))
    a, b = (estimate_share(s, trials=n) for s, n in zip(shares, trials, strict=True))
    if pairing.paired_by:
        differences = [x - y for x, y in zip(*shares, strict=True)]
        difference = estimate_difference(differences, trials=min(trials))
    else:
        difference = estimate_unpaired_difference(a, b)
    return Accuracies(a, b, difference, pairing)


def _per_problem(pairing: Pairing, side: str, right: Sequence[float]) -> list[float]:
    """Each problem's share of right traces: over the traces of each stratum, then over strata."""
    by_problem: dict[int, list[float]] = {}
    for stratum in pairing.strata:
        if places := getattr(stratum, side):
            share = float(np.mean([right[i] for i in places]))
            by_problem.setdefault(stratum.problem, []).append(share)
    return [float(np.mean(shares)) for shares in by_problem.values()]
