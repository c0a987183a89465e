"""Thoughts by class in two groups of traces, and in right and wrong ones.

Thoughts are counted in the text alone. Traces that were cut off are longer and mostly wrong, so
right and wrong traces are also compared among those that ended by themselves.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mi_lens.evaluation.result import CAPPED
from mi_lens.evaluation.two_groups import Contrast, Pairing, Values, contrast, pair
from mi_lens.traces.thoughts import (
    SEAL,
    THOUGHT_CLASSES,
    ThoughtClass,
    ThoughtRule,
    split_text,
)
from mi_lens.traces.trace import Trace

Part = Literal["all", "not cut off", "cut off"]


@dataclass(frozen=True)
class ThoughtContrast:
    """Thoughts of a group of traces, compared with those of another.

    Attributes:
        classes: The mean number of thoughts per trace of each class, compared.
        traces: Number of traces in each group.
        pairing: Which traces were compared.
    """

    classes: dict[ThoughtClass, Contrast]
    traces: tuple[int, int]
    pairing: Pairing


def contrast_thoughts(
    first: Sequence[Trace],
    second: Sequence[Trace],
    rule: ThoughtRule = SEAL,
    *,
    draws: int = 9999,
    seed: int = 0,
) -> ThoughtContrast:
    """Compares the numbers of thoughts of two groups, within the problems that they share.

    Text without a think block counts from its first blank line on, as in `split_text`.

    Args:
        first: Traces.
        second: Other traces.
        rule: Assigns a class to every thought.
        draws: Number of permutations.
        seed: Seeds the permutations and the bootstrap.

    Raises:
        ValueError: If a group has no traces.
    """
    pairing = pair(first, second)
    counts = _counts(first, rule), _counts(second, rule)
    contrasts = contrast(pairing, *counts, draws=draws, seed=seed)
    classes = dict(zip(THOUGHT_CLASSES, contrasts, strict=True))
    return ThoughtContrast(classes, (len(first), len(second)), pairing)


def contrast_by_ending(
    first: Sequence[Trace],
    second: Sequence[Trace],
    rule: ThoughtRule = SEAL,
    *,
    draws: int = 9999,
    seed: int = 0,
) -> dict[Part, ThoughtContrast]:
    """`contrast_thoughts` among all traces, and apart for those that were cut off.

    Args:
        first: Traces.
        second: Other traces.
        rule: Assigns a class to every thought.
        draws: Number of permutations.
        seed: Seeds the permutations and the bootstrap.

    Returns:
        The contrast among all traces, among those that are not known to have been cut off, and
        among those that were. A part in which a group has no traces is left out.
    """
    parts: dict[Part, ThoughtContrast] = {}
    for part in get_args(Part):
        groups = [[trace for trace in group if _in_part(trace, part)] for group in (first, second)]
        if all(groups):
            parts[part] = contrast_thoughts(*groups, rule=rule, draws=draws, seed=seed)
    return parts


def contrast_outcomes(
    traces: Sequence[Trace],
    right: Sequence[bool | None],
    rule: ThoughtRule = SEAL,
    *,
    draws: int = 9999,
    seed: int = 0,
) -> dict[Part, ThoughtContrast]:
    """Compares the thoughts of right traces with those of wrong ones; first is right.

    Args:
        traces: The traces.
        right: Whether each is right; one of unknown outcome is left out.
        rule: Assigns a class to every thought.
        draws: Number of permutations.
        seed: Seeds the permutations and the bootstrap.

    Returns:
        As `contrast_by_ending`. It is empty if no trace is right, or none is wrong.

    Raises:
        ValueError: If there is not one outcome per trace.
    """
    by_outcome = [
        [trace for trace, outcome in zip(traces, right, strict=True) if outcome is side]
        for side in (True, False)
    ]
    return contrast_by_ending(*by_outcome, rule=rule, draws=draws, seed=seed)


def _in_part(trace: Trace, part: Part) -> bool:
    return part == "all" or (part == "cut off") == (trace.stop_reason in CAPPED)


def _counts(traces: Sequence[Trace], rule: ThoughtRule) -> Values:
    """The number of thoughts of each class in each trace."""
    found = [Counter(t.thought_class for t in split_text(trace.text, rule)) for trace in traces]
    return np.array([[float(c[name]) for name in THOUGHT_CLASSES] for c in found])
