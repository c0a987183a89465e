"""Thoughts at peaks beside thoughts without a peak that are like them in everything else known.

A thought at a peak may matter because of what it opens with, where it stands, how uncertain the
model is there, or how long it is: a long thought holds more peaks by chance. So each thought at a
peak is paired with another one that is alike in these. The table of balance says how alike.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from mi_lens.common.by_problem import mean_of_pairs
from mi_lens.common.statistics import Estimate
from mi_lens.traces.thoughts import SEAL, THOUGHT_CLASSES, Thought, ThoughtRule, split_thoughts
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, as_words, vocabulary, word_of

Opening = Literal["thinking word", "number", "other"]


@dataclass(frozen=True)
class PlacedThought:
    """A thought of a trace, with what it is matched on.

    Attributes:
        trace: Id of the trace.
        problem: Key of its problem (`Problem.key`).
        thought: The thought.
        opening: The kind of its first token.
        entropy: Of the next token at the boundary, where the first token is drawn, in bits.
        position: Its first step, as a share of the trace.
        length: Number of its tokens.
    """

    trace: str
    problem: str
    thought: Thought
    opening: Opening
    entropy: float
    position: float
    length: int

    @property
    def stratum(self) -> tuple[str, str, int]:
        """What a match must share: kind of first token, class of thought, decile of the trace."""
        return self.opening, self.thought.thought_class, int(10 * self.position)


@dataclass(frozen=True)
class Balance:
    """How alike thoughts at peaks and others are in one quantity.

    Standardised mean differences, at peaks less others, in standard deviations of both groups
    before matching. Below about 0.1 to 0.25 is usually called balanced. None if undefined.

    Attributes:
        before: Of all thoughts.
        after: Of the pairs.
    """

    before: float | None
    after: float | None


@dataclass(frozen=True)
class MatchedThoughts:
    """Thoughts at peaks, each with its control.

    Attributes:
        pairs: (thought at a peak, its control).
        unmatched: Thoughts at peaks that no control is left for.
        others: Number of thoughts without a peak, from which controls were taken.
        balance: By quantity.
    """

    pairs: tuple[tuple[PlacedThought, PlacedThought], ...]
    unmatched: tuple[PlacedThought, ...]
    others: int
    balance: Mapping[str, Balance]

    def thoughts_of(self, traces: Sequence[Trace]) -> list[list[Thought]]:
        """For every trace its thoughts that are in a pair, as `resample_thoughts` takes them."""
        chosen: dict[str, list[Thought]] = defaultdict(list)
        for pair in self.pairs:
            for placed in pair:
                chosen[placed.trace].append(placed.thought)
        return [sorted(chosen[trace.id], key=lambda thought: thought.start) for trace in traces]

    def contrast(self, values: Mapping[tuple[str, int], float | None]) -> "PairedContrast":
        """Compares a value at peaks with that at their controls, with intervals over problems.

        Args:
            values: By id of the trace and first step of the thought; None if it is unknown.

        Raises:
            ValueError: If a value is missing or not finite.
        """
        missing = [
            p for pair in self.pairs for p in pair if (p.trace, p.thought.start) not in values
        ]
        if missing:
            raise ValueError(
                f"no value for the thought at step {missing[0].thought.start} of trace "
                f"{missing[0].trace}; expected one for every thought of a pair, or None"
            )
        known = []
        for peak, control in self.pairs:
            a, b = (values[p.trace, p.thought.start] for p in (peak, control))
            if a is not None and b is not None:
                known.append((a, b, (peak.problem, control.problem)))
        problems = [problems for *_, problems in known]
        return PairedContrast(
            difference=mean_of_pairs([a - b for a, b, _ in known], problems),
            peaks=mean_of_pairs([a for a, *_ in known], problems),
            controls=mean_of_pairs([b for _, b, _ in known], problems),
            pairs=len(known),
            left_out=len(self.pairs) - len(known),
        )


@dataclass(frozen=True)
class PairedContrast:
    """A value at peaks, beside that at matched controls.

    Attributes:
        difference: The mean difference of pairs, at the peak less at its control.
        peaks: The mean at peaks.
        controls: The mean at their controls.
        pairs: Number of pairs.
        left_out: Number of pairs without both values.
    """

    difference: Estimate
    peaks: Estimate
    controls: Estimate
    pairs: int
    left_out: int


def matched_thoughts(
    tokenizer,
    traces: Sequence[Trace],
    peaks: Sequence[Sequence[int]],
    entropy: Sequence[Float[np.ndarray, "_"]],
    words: Words,
    *,
    caliper: float | None = None,
    rule: ThoughtRule = SEAL,
) -> MatchedThoughts:
    """Pairs thoughts that hold a peak with thoughts that hold none.

    A pair shares the kind of the first token (thinking word, number or other), the class of the
    thought and the decile of the trace in which it begins. Among those, pairs are chosen so that
    as many as possible are made and the sum of their distances is as small as it can be. The
    distance of a pair is the Euclidean one of entropy, position and length, each in standard
    deviations over all thoughts. No thought is in two pairs. A control may be of another trace.

    Args:
        tokenizer: The traces' tokenizer.
        traces: Traces with problems.
        peaks: For every trace the steps of its peaks, by whatever rule.
        entropy: For every trace `next_token_uncertainty(...)["entropy"]`, in bits per step.
        words: The thinking words.
        caliper: The largest distance of a pair; None allows any.
        rule: Tells the classes of thoughts apart.

    Raises:
        ValueError: If there is not one list of peaks and one array of entropies per trace, an
            array does not have one value per step, a peak lies outside its trace, two traces have
            one id, a trace has no problem, or the caliper is negative.
    """
    if not len(traces) == len(peaks) == len(entropy):
        raise ValueError(
            f"{len(traces)} traces, {len(peaks)} lists of peaks and {len(entropy)} arrays of "
            "entropies; expected one of each per trace"
        )
    if len({trace.id for trace in traces}) < len(traces):
        raise ValueError("two of the traces have the same id; expected each trace once")
    if caliper is not None and caliper < 0:
        raise ValueError(f"caliper={caliper}: expected a distance of 0 or more, or None")
    at_peaks: list[PlacedThought] = []
    others: list[PlacedThought] = []
    for trace, steps, bits in zip(traces, peaks, entropy, strict=True):
        if len(bits) != len(trace) or any(not 0 <= step < len(trace) for step in steps):
            raise ValueError(
                f"trace {trace.id} has {len(trace)} steps, {len(bits)} entropies and peaks at "
                f"{list(steps)}; expected one entropy per step, and peaks among the steps"
            )
        for placed in _placed(tokenizer, trace, bits, words, rule):
            thought = placed.thought
            held = any(thought.start <= step < thought.stop for step in steps)
            (at_peaks if held else others).append(placed)
    pairs = _pairs(at_peaks, others, caliper)
    paired = {(peak.trace, peak.thought.start) for peak, _ in pairs}
    return MatchedThoughts(
        pairs=tuple(pairs),
        unmatched=tuple(p for p in at_peaks if (p.trace, p.thought.start) not in paired),
        others=len(others),
        balance=_balance(at_peaks, others, pairs),
    )


def _placed(
    tokenizer,
    trace: Trace,
    entropy: Float[np.ndarray, "_"],
    words: Words,
    rule: ThoughtRule,
) -> list[PlacedThought]:
    given, strings = as_words(words), vocabulary(tokenizer)
    thinking = {word if isinstance(word, int) else word_of(word) for word in given}

    def opening(token: int) -> Opening:
        string = strings[token] if token < len(strings) else ""
        if token in thinking or (word_of(string) or None) in thinking:
            return "thinking word"
        return "number" if any(map(str.isdigit, string)) else "other"

    return [
        PlacedThought(
            trace=trace.id,
            problem=trace.require_problem("to compare thoughts by").key,
            thought=thought,
            opening=opening(trace.token_ids[thought.start]),
            entropy=float(entropy[thought.start]),
            position=thought.start / len(trace),
            length=thought.stop - thought.start,
        )
        for thought in split_thoughts(tokenizer, trace, rule)
    ]


Pairs = list[tuple[PlacedThought, PlacedThought]]


def _pairs(
    at_peaks: Sequence[PlacedThought], others: Sequence[PlacedThought], caliper: float | None
) -> Pairs:
    """In every stratum as many pairs as can be, of the smallest sum of distances."""
    if not at_peaks or not others:
        return []
    values = np.array([[*_covariates(placed).values()] for placed in (*at_peaks, *others)])
    spread = values.std(0, ddof=1)
    scaled = values / np.where(spread > 0, spread, 1)
    strata: dict[tuple[str, str, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for place, placed in enumerate((*at_peaks, *others)):
        strata[placed.stratum][place >= len(at_peaks)].append(place)
    pairs: Pairs = []
    for peaks, controls in strata.values():
        apart = np.linalg.norm(scaled[peaks][:, None] - scaled[controls][None], axis=-1)
        allowed = apart <= (np.inf if caliper is None else caliper)
        # One forbidden pair costs more than all that are allowed together.
        cost = np.where(allowed, apart, 1 + apart.max(initial=0) * (1 + len(peaks)))
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if allowed[row, column]:
                control = controls[column] - len(at_peaks)
                pairs.append((at_peaks[peaks[row]], others[control]))
    return pairs


def _covariates(placed: PlacedThought) -> dict[str, float]:
    return {name: float(getattr(placed, name)) for name in ("entropy", "position", "length")}


def _quantities(placed: PlacedThought) -> dict[str, float]:
    """All that thoughts are matched on, as numbers."""
    return {
        **_covariates(placed),
        **{f"opens with {kind}": float(placed.opening == kind) for kind in get_args(Opening)},
        **{f"is {kind}": float(placed.thought.thought_class == kind) for kind in THOUGHT_CLASSES},
    }


def _balance(
    at_peaks: Sequence[PlacedThought], others: Sequence[PlacedThought], pairs: Pairs
) -> dict[str, Balance]:
    """The balance of everything that thoughts are matched on."""
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    groups = [list(map(_quantities, group)) for group in (at_peaks, others, *sides)]
    balance = {}
    for name in groups[0][0] if at_peaks else ():
        peaks, controls, first, second = (np.array([of[name] for of in group]) for group in groups)
        spread = None
        if min(len(peaks), len(controls)) > 1:
            spread = sqrt((peaks.var(ddof=1) + controls.var(ddof=1)) / 2)
        balance[name] = Balance(_apart(peaks, controls, spread), _apart(first, second, spread))
    return balance


def _apart(first: np.ndarray, second: np.ndarray, spread: float | None) -> float | None:
    if not spread or not len(first) or not len(second):
        return None
    return float(first.mean() - second.mean()) / spread
