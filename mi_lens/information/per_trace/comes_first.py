"""What comes first in a trace: MI peaks, thinking words, uncertainty, or the answer itself?

Of two kinds of marks the more frequent one comes first more often, wherever its marks stand. So
each kind is compared with itself at other places: as many marks, as far apart, in the same trace.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mi_lens.common.resampling import problem_index
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.belief import Belief
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.information.per_trace.settled import settled
from mi_lens.traces.trace import Trace

BELIEF = "belief"
BeliefMark = Literal["settled", "jump"]


@dataclass(frozen=True)
class Marked:
    """The steps of a trace that have a mark of one kind.

    Attributes:
        steps: These steps, each at most once, in any order.
        among: The steps that could have one, in increasing order.
    """

    steps: Sequence[int]
    among: Sequence[int]

    def __post_init__(self):
        if len(set(self.steps)) != len(self.steps) or not set(self.steps) <= set(self.among):
            raise ValueError(
                f"marks at the steps {list(self.steps)[:8]}: expected steps of `among`, each once"
            )


@dataclass(frozen=True)
class ComesFirst:
    """How often marks of one kind come first.

    Attributes:
        traces: Number of traces with such a mark.
        share: Share of traces in which one of them comes before all marks of other kinds, averaged
            over problems. Kinds that come first at the same step share the trace.
        chance: The same share if its marks stood elsewhere; see `what_comes_first`.
        excess: `share` less `chance`, with its interval over problems.
        p_value: Chance that marks that stand elsewhere come first at least as often.
    """

    traces: int
    share: Estimate
    chance: float
    excess: Estimate
    p_value: float


def marks_of(
    trace: Trace,
    measurement: Measurement,
    belief: Belief,
    words: Collection[int],
    *,
    rule: PeakRule = PAPER_RULE,
    mark: BeliefMark = "settled",
    threshold: int | float | None = None,
) -> dict[str, Marked]:
    """The marks of a trace whose order `what_comes_first` looks at, within its thinking.

    Args:
        trace: The trace.
        measurement: What was measured of it at one hook name.
        belief: Its belief, as `answer_belief` returns it.
        words: Token ids of thinking words, such as `TokenSet.ids`.
        rule: The rule of peaks of MI, and of peaks of the next token's entropy.
        mark: Where belief has its mark: "settled", where the final answer is settled (`settled`);
            or "jump", at the cut at which its probability rises most over the cut before.
        threshold: See `settled`.

    Returns:
        "MI peaks", "thinking words", "entropy peaks" and "belief", each of which may be empty.
        Belief can stand at cuts only.

    Raises:
        ValueError: If the trace is another one than was measured, or too short for peaks.
    """
    if belief.trace != trace.id or len(measurement.mi) != len(trace):
        raise ValueError(
            f"trace {trace.id} of {len(trace)} steps with a measurement of {len(measurement.mi)} "
            f"steps and the belief of trace {belief.trace}; expected those of this trace"
        )
    thinking = range(belief.cuts[-1])

    def within(steps: Sequence[int] | Int[np.ndarray, "_"]) -> Marked:
        return Marked([int(step) for step in steps if step in thinking], thinking)

    written = [step for step, token in enumerate(trace.token_ids) if token in words]
    return {
        "MI peaks": within(find_peaks(measurement.mi, rule)),
        "thinking words": within(written),
        "entropy peaks": within(find_peaks(measurement.covariates["entropy"], rule)),
        BELIEF: _of_belief(belief, mark, threshold),
    }


def _of_belief(belief: Belief, mark: BeliefMark, threshold: float | None) -> Marked:
    if mark == "settled":
        step = settled(belief, threshold).step
        return Marked([] if step is None else [step], belief.cuts)
    if belief.final is None or len(belief.cuts) < 2:
        return Marked([], belief.cuts[1:])
    rises = np.diff(belief.final.probabilities)
    steepest = int(rises.argmax())
    risen = [belief.cuts[steepest + 1]] if rises[steepest] > 0 else []
    return Marked(risen, belief.cuts[1:])


def what_comes_first(
    marks: Sequence[Mapping[str, Marked]],
    problems: Sequence[Hashable] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, ComesFirst]:
    """In how many traces each kind of marks comes first, against chance.

    Chance moves the marks of one kind and leaves the others where they are: all its marks are
    shifted along the steps that could have one, by the same number of places, and what leaves at
    the end comes in at the start. So their number and their distances stay. `chance` is the mean
    over all shifts; the p-value draws a shift for every trace.

    Args:
        marks: The marks of each trace by kind, as `marks_of` returns them. All traces have the same
            kinds.
        problems: The problem of each trace; None if each is of its own.
        draws: Number of draws for the p-values.
        seed: Seed of the draws and the intervals.

    Returns:
        For each kind, how often it comes first.

    Raises:
        ValueError: If there are no traces, or they differ in their kinds.
    """
    if not marks or any(of_trace.keys() != marks[0].keys() for of_trace in marks):
        raise ValueError(
            "expected at least one trace, and the same kinds of marks in all of them, got "
            f"{[list(of_trace) for of_trace in marks[:3]]}"
        )
    problem = problem_index(problems, len(marks))
    weights = 1 / (np.bincount(problem)[problem] * (problem.max() + 1))
    rng = np.random.default_rng(seed)
    found = {}
    for kind in marks[0]:
        firsts = [_shifted_firsts(of_trace[kind]) for of_trace in marks]
        others = [
            [_first(other) for name, other in of_trace.items() if name != kind]
            for of_trace in marks
        ]
        wins = [_wins(first, other) for first, other in zip(firsts, others, strict=True)]
        share, chance = (np.array([of(won) for won in wins]) for of in (lambda w: w[0], np.mean))
        drawn = sum(
            weight * won[rng.integers(len(won), size=draws)]
            for weight, won in zip(weights, wins, strict=True)
        )
        reached = (drawn >= weights @ share - 1e-12).sum()
        found[kind] = ComesFirst(
            traces=sum(bool(of_trace[kind].steps) for of_trace in marks),
            share=_over_problems(share, problem, seed),
            chance=float(weights @ chance),
            excess=_over_problems(share - chance, problem, seed),
            p_value=float((1 + reached) / (1 + draws)),
        )
    return found


def _first(marked: Marked) -> float:
    return float(min(marked.steps, default=np.inf))


def _shifted_firsts(marked: Marked) -> Float[np.ndarray, " shift"]:
    """The first step with a mark after each shift; the first shift is none."""
    among = np.array(marked.among)
    if not marked.steps:
        return np.array([np.inf])
    places = np.sort(np.searchsorted(among, np.array(marked.steps)))
    count = len(among)
    # A shift by s carries the places from count - s on to the start.
    carried = count - np.arange(count)
    next_one = np.searchsorted(places, carried)
    inside = next_one < len(places)
    first = np.where(inside, places[np.minimum(next_one, len(places) - 1)], places[0] + count)
    return among[first - carried].astype(float)


def _wins(
    firsts: Float[np.ndarray, " shift"], others: Sequence[float]
) -> Float[np.ndarray, " shift"]:
    """The part of the trace that a kind has with each of its firsts."""
    other = np.array(others, dtype=float)
    ahead = (firsts[:, None] <= other).all(1) & np.isfinite(firsts)
    return ahead / (1 + (firsts[:, None] == other).sum(1))


def _over_problems(
    values: Float[np.ndarray, " trace"], problem: Int[np.ndarray, " trace"], seed: int
) -> Estimate:
    return estimate_mean(np.bincount(problem, values) / np.bincount(problem), seed=seed)
