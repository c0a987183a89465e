"""When a model reflects, and what its reflections are worth, counted over sampled traces."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from statistics import mean, median
from typing import Any

from mi_lens.common.intervals import (
    estimate_difference,
    estimate_share,
    estimate_unpaired_difference,
)
from mi_lens.common.statistics import Estimate
from mi_lens.models.pocket.training.behaviour import Conduct
from mi_lens.problems.arithmetic import LEVEL_WEIGHTS

Numbers = dict[str, Any]


def as_numbers(estimate: Estimate) -> Numbers:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(estimate).items()}


def share(hits: Iterable[bool]) -> Numbers:
    """A share with Wilson's interval."""
    return as_numbers(_share(hits))


def _share(hits: Iterable[bool]) -> Estimate:
    return estimate_share([float(hit) for hit in hits])


def contrast(first: Sequence[bool], second: Sequence[bool]) -> Numbers:
    """Two shares of different traces, and their difference with Newcombe's interval."""
    one, other = _share(first), _share(second)
    difference = estimate_unpaired_difference(one, other)
    return {
        "first": as_numbers(one), "second": as_numbers(other), "difference": as_numbers(difference),
    }  # fmt: skip


def paired(first: Sequence[bool], second: Sequence[bool]) -> Numbers:
    """Two shares over the same problems, and first - second with Tango's interval."""
    gains = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    return {
        "first": share(first), "second": share(second),
        "difference": as_numbers(estimate_difference(gains)),
    }  # fmt: skip


def by_value(conducts: Iterable[Conduct]) -> Numbers:
    """Whether traces reflect: first where the first value is wrong, second where it is right."""
    stated = [c for c in conducts if c.first_value is not None]
    wrong, right = ([c.reflects for c in stated if c.value_right == kind] for kind in (False, True))
    return contrast(wrong, right)


def by_entropy(conducts: Iterable[Conduct]) -> Numbers:
    """Whether traces reflect: first where the first value was uncertain, second where sure.

    Uncertain is an entropy of the value's digits above its median over these traces.
    """
    stated = [c for c in conducts if c.way in ("guess", "rounded")]
    middle = median([c.value_entropy for c in stated] or [0.0])
    high, low = (
        [c.reflects for c in stated if (c.value_entropy > middle) == kind] for kind in (True, False)
    )
    return {"median_nats": round(middle, 3), **contrast(high, low)}


def by_level(conducts: Sequence[Conduct], of: Callable[[list[Conduct]], Numbers]) -> Numbers:
    """A count over all traces and over those of each level."""
    levels = {level: [c for c in conducts if c.exercise.level == level] for level in LEVEL_WEIGHTS}
    return {name: of(list(chosen)) for name, chosen in {"all": conducts, **levels}.items()}


def describe_conduct(conducts: Sequence[Conduct]) -> Numbers:
    """Accuracy, lengths, first values, and when the traces reflect."""
    stated = [c for c in conducts if c.first_value is not None]
    reflections = [c.thoughts[i] for c in conducts for i in c.reflections]
    lengths = [c.tokens for c in conducts]
    return {
        "accuracy": by_level(conducts, lambda cs: share(c.right for c in cs)),
        "finished": share(c.finished for c in conducts),
        "tokens": {"mean": round(mean(lengths), 1), "median": median(lengths)},
        "ways": {
            way: share(c.way == way for c in conducts)
            for way in ("guess", "rounded", "worked", "none")
        },
        "value_right": by_level(stated, lambda cs: share(c.value_right for c in cs)),
        "reflects": by_level(conducts, lambda cs: share(c.reflects for c in cs)),
        "reflections_per_trace": round(len(reflections) / len(conducts), 3),
        "reflections_that_compute": share("=" in thought for thought in reflections),
        "reflects_by_value": by_level(conducts, by_value),
        "reflects_by_entropy": by_level(conducts, by_entropy),
        "right_after_wrong_value": contrast(
            [c.right for c in stated if not c.value_right and c.reflects],
            [c.right for c in stated if not c.value_right and not c.reflects],
        ),
        "right_after_right_value": contrast(
            [c.right for c in stated if c.value_right and c.reflects],
            [c.right for c in stated if c.value_right and not c.reflects],
        ),
    }
