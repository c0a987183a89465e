"""Information about the answer across problems, at aligned steps of many traces.

Mutual information is a property of random variables. Here these are the answer of a random problem
and the state at a step that one rule chooses in every trace. In contrast, the per-trace MI of
`hsic` is a property of a pair of vectors. `correlate_with_trajectory` measures how well the
per-trace MI follows the information across problems.
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
        part: "whole", the answer itself; "first_digit" or "last_digit", a digit of the absolute
            value; "parity", 0 for even and 1 for odd; or "size", the quarter of the sorted answers
            in which the answer lies, 0 to 3. Equal answers lie in the same quarter.

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
            f"answer {answer!r} is not an integer; only integers have parts. Use other answers as "
            "labels directly"
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

    Most answers occur once, so a probe of whole answers is tested on answers that it never saw.
    Here each digit has its own probe, and so has the sign. The probability of an answer is the
    product of its digits' probabilities, so the gains of the digits are added. A guess is correct
    if all its digits are correct. Shorter answers are padded with zeros. `entropy` is the sum of
    the digits' entropies.

    Args:
        states: As for `usable_information`.
        answers: Integers, as numbers or text.
        groups: As for `usable_information`.
        folds: As for `usable_information`.
        shuffles: As for `usable_information`. All digits of an answer are shuffled together.
        seed: As for `usable_information`.

    Raises:
        ValueError: If an answer is not an integer, or for the same reasons as
            `usable_information`.
    """
    numbers = [_integer(answer) for answer in answers]
    width = max((len(str(abs(number))) for number in numbers), default=0)
    written = [f"{'-' if number < 0 else '+'}{abs(number):0{width}}" for number in numbers]
    columns = [column for column in zip(*written, strict=True) if len(set(column)) > 1]
    digit_information = partial(
        usable_information, states, groups=groups, folds=folds, shuffles=shuffles, seed=seed
    )
    digits = [digit_information(column) for column in columns or [numbers]]
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
        at: The aligned step. The traces in `at.present` have the step and are the rows of `usable`.
        usable: The usable information at the step, across these traces.
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
        activations: The states of every trace at one hook name, each of shape (step, d).
        labels: One label per trace, also for the traces without the step.
        groups: The problem of every trace, if problems repeat.
        folds: As for `usable_information`.
        shuffles: As for `usable_information`.
        seed: As for `usable_information`.

    Raises:
        ValueError: If the number of labels, groups or activations is not the number of traces, or
            for the same reasons as `usable_information`.
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
    """How well the per-trace MI follows the information across problems from step to step.

    Attributes:
        rho: Spearman correlation over the aligned steps.
        low: Lower end of the correlation's 95 % interval, from resampling problems.
        high: Upper end of the same interval.
        trace_mi: The mean per-trace MI at every aligned step.
        bits: The usable information across problems at every aligned step, in bits.
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

    The interval resamples problems, the same ones for both quantities. It covers the choice of the
    problems. It does not cover the choice of the steps, which are few and depend on each other, nor
    the choice of the problems on which the probes were trained: the probes are not fitted again.

    Args:
        informations: The information at three or more aligned steps of the same traces.
        trajectories: The MI of every trace at the same hook name, one value per step.
        groups: The problem of every trace, as given to `information_at`.
        draws: Number of draws of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If there are fewer than three steps, if the traces do not match, or if either
            quantity is the same at all steps.
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
        # A draw may contain no problem that has the step. Then it defines no correlation.
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
