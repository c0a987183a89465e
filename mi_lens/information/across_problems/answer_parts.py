"""Information about the answer across problems, at aligned steps of many traces.

Mutual information is a property of random variables, here the answer of a problem drawn at random
and the state at a step found by one rule in every trace. The per-trace number of `hsic` is a
property of one pair of vectors; `correlate_with_trajectory` asks whether it tracks this one.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.resampling import bootstrap_counts, percentiles, problem_index
from mi_lens.common.statistics import spearman
from mi_lens.information.across_problems.aligned_steps import AlignedSteps
from mi_lens.information.across_problems.probe import UsableInformation, usable_information

Part = Literal["whole", "first_digit", "last_digit", "parity", "size"]
SIZE_CLASSES = 4


def answer_parts(answers: Sequence[str | int], part: Part) -> list[int]:
    """A part of every integer answer, as a label.

    Args:
        answers: Integers, as numbers or text.
        part: "whole"; "first_digit" and "last_digit", of the absolute value; "parity", 0 for even;
            "size", the quarter of these answers in which one lies, 0 to 3: equal answers share one.

    Raises:
        ValueError: If the part is unknown, or an answer is not an integer.
    """
    numbers = [_integer(answer) for answer in answers]
    if part == "size":
        edges = np.quantile(numbers, np.arange(1, SIZE_CLASSES) / SIZE_CLASSES)
        return np.searchsorted(edges, numbers).tolist()
    rules: dict[str, Callable[[int], int]] = {
        "whole": int,
        "first_digit": lambda number: int(str(abs(number))[0]),
        "last_digit": lambda number: abs(number) % 10,
        "parity": lambda number: number % 2,
    }
    if part not in rules:
        raise ValueError(f"part={part!r}: expected one of {get_args(Part)}")
    return [rules[part](number) for number in numbers]


def _integer(answer: str | int) -> int:
    try:
        return int(answer)
    except ValueError:
        raise ValueError(
            f"answer {answer!r} is not an integer; parts of answers are of integers, other answers "
            "can be labels as they are"
        ) from None


def digits_information(
    states: Float[Tensor, "row d"],
    answers: Sequence[str | int],
    *,
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    shuffles: int = 20,
    seed: int = 0,
) -> UsableInformation:
    """Usable information of whole answers, guessed digit by digit.

    Most answers occur once, so that a probe of whole answers has never seen those it is tested on.
    Here one probe a digit (and one of the sign) reads its own from the state, and an answer's
    probability is the product: gains add up over digits, shorter answers are padded with zeros,
    and a guess is correct if all its digits are. `entropy` is that of digits guessed one by one.

    Args:
        states: As for `usable_information`, and so the rest.
        answers: Integers, as numbers or text.
        groups: As there.
        folds: As there.
        shuffles: As there; all digits of an answer are shuffled together.
        seed: As there.

    Raises:
        ValueError: If an answer is not an integer, or as in `usable_information`.
    """
    numbers = [_integer(answer) for answer in answers]
    width = max((len(str(abs(number))) for number in numbers), default=0)
    written = [f"{'-' if number < 0 else '+'}{abs(number):0{width}}" for number in numbers]
    columns = [column for column in zip(*written, strict=True) if len(set(column)) > 1]
    read = partial(
        usable_information, states, groups=groups, folds=folds, shuffles=shuffles, seed=seed
    )
    digits = [read(column) for column in columns or [numbers]]
    return UsableInformation(
        gains=tuple(np.sum([digit.gains for digit in digits], axis=0).tolist()),
        correct=tuple(np.all([digit.correct for digit in digits], axis=0).tolist()),
        entropy=sum(digit.entropy for digit in digits),
        shuffled=tuple(np.sum([digit.shuffled for digit in digits], axis=0).tolist()),
        problem=digits[0].problem,
    )


@dataclass(frozen=True)
class AlignedInformation:
    """Usable information at one aligned step.

    Attributes:
        at: The step; `at.present` are the traces that have it, the rows of `usable`.
        usable: What a probe reads there, across those traces.
    """

    at: AlignedSteps
    usable: UsableInformation


def information_at(
    at: AlignedSteps,
    activations: Sequence[Float[Tensor, "_ d"]],
    labels: Sequence[Hashable],
    *,
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    shuffles: int = 20,
    seed: int = 0,
) -> AlignedInformation:
    """Usable information of labels at an aligned step, over the traces that have it.

    Args:
        at: The step of each trace.
        activations: For every trace its states at one hook name, shape (step, d).
        labels: One a trace, those without the step included.
        groups: One a trace, its problem, where problems repeat.
        folds: As for `usable_information`.
        shuffles: As there.
        seed: As there.

    Raises:
        ValueError: If there is not one of each for every trace, or as in `usable_information`.
    """
    for name, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != len(at.steps):
            raise ValueError(f"{len(given)} {name} for {len(at.steps)} traces; expected as many")
    return AlignedInformation(
        at,
        usable_information(
            at.states(activations),
            [labels[i] for i in at.present],
            groups=None if groups is None else [groups[i] for i in at.present],
            folds=folds,
            shuffles=shuffles,
            seed=seed,
        ),
    )


@dataclass(frozen=True)
class TrajectoryCorrelation:
    """How far the per-trace number follows information across problems, from step to step.

    Attributes:
        rho: Spearman correlation over the aligned steps.
        low: Lower end of its 95 % interval, resampling problems.
        high: Upper end.
        trace_mi: For every aligned step the mean per-trace MI there.
        bits: For every aligned step the usable information across problems.
    """

    rho: float
    low: float
    high: float
    trace_mi: tuple[float, ...]
    bits: tuple[float, ...]


def correlate_with_trajectory(
    informations: Sequence[AlignedInformation],
    trajectories: Sequence[Sequence[float]],
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> TrajectoryCorrelation:
    """Spearman correlation, over aligned steps, of mean per-trace MI and usable information.

    The interval resamples problems, in both numbers together, with the probes as they were fitted.
    It covers which problems were drawn; it does not cover the choice of steps, which are few and
    not independent of one another, nor what other training problems would have done to the probes.

    Args:
        informations: At three or more aligned steps of the same traces.
        trajectories: For every trace its MI at every step, at the same hook name.
        groups: One a trace, its problem, as given to `information_at`.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        ValueError: If there are fewer than three steps, the traces do not match, or one of the
            two numbers is the same at all steps.
    """
    if len(informations) < 3:
        raise ValueError(
            f"{len(informations)} aligned steps; a correlation over steps needs at least 3"
        )
    problem = problem_index(groups, len(trajectories))
    counts = np.vstack([np.ones_like(problem), bootstrap_counts(problem, draws, seed)])
    mi, bits = [], []
    for information in informations:
        values = information.at.values(trajectories)
        weights = counts[:, list(information.at.present)]
        # A draw may hold none of the problems that have a step; then it defines no correlation.
        with np.errstate(invalid="ignore"):
            weights = weights / weights.sum(1, keepdims=True)
        mi.append(weights @ values)
        bits.append(weights @ np.array(information.usable.gains))
    rho = np.array(
        [spearman(a, b) for a, b in zip(np.stack(mi, 1), np.stack(bits, 1), strict=True)]
    )
    if np.isnan(rho[0]):
        raise ValueError(
            "the per-trace MI or the usable information is the same at all aligned steps; a "
            "correlation over steps needs both to vary"
        )
    low, high = percentiles(rho[1:], 0.95)
    return TrajectoryCorrelation(
        rho=float(rho[0]),
        low=low,
        high=high,
        trace_mi=tuple(float(draw[0]) for draw in mi),
        bits=tuple(float(draw[0]) for draw in bits),
    )
