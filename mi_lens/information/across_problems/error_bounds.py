"""Bounds on the error of a guess, from the information about the answer in bits.

Theorem 1 (Fano) is a lower bound on the error of *any* guess from the state h. Theorem 2 (Hellman
and Raviv) is an upper bound on the error of the *best* guess, the likeliest answer given h. Neither
is an upper bound on the model's own error: a model may guess worse than its states allow.

Both theorems are about the mutual information. Up to chance, a probe's usable information is
smaller. Theorem 2 holds with usable information too, but it is less tight. Theorem 1 then holds
only for guesses from what the probe reads; a guess that uses more of the state may err less.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.arrays import as_float64
from mi_lens.common.float64 import in_float64
from mi_lens.information.across_problems.probe import UsableInformation, usable_information


@dataclass(frozen=True)
class ErrorBounds:
    """Bounds on the probability of error. They have the shape of the information.

    Attributes:
        lower: Every guess from h has at least this probability of error (theorem 1).
        upper: The best guess from h has at most this probability of error (theorem 2).
    """

    lower: Float[np.ndarray, "*steps"]
    upper: Float[np.ndarray, "*steps"]


def error_bounds(
    entropy_bits: float,
    information_bits: float | Sequence[float] | Float[np.ndarray, "*steps"] | Tensor,
    size: int,
    *,
    largest_prior: float | None = None,
) -> ErrorBounds:
    """Bounds on the error of guesses of y from h, given I(y; h).

    The lower bound is the smallest p with H(y) - I <= H_b(p) + p log2(size - 1). This is theorem 1
    with p_e on both sides, without the division by a logarithm that is 0 for two answers. The upper
    bound is (H(y) - I) / 2, or the error of the best guess without h if that is smaller.

    The true information lies between 0 and H(y). Therefore an estimate below 0 counts as 0, and an
    estimate above H(y) counts as H(y).

    Args:
        entropy_bits: H(y).
        information_bits: I(y; h), a number or an array, such as one value per step.
        size: |Y|, the number of possible answers.
        largest_prior: Probability of the likeliest answer, if it is known. The best guess without h
            errs with probability 1 - largest_prior. If None, this error counts as 1 - 1/size.

    Raises:
        ValueError: If size is below 2, if H(y) is not between 0 and log2(size), if information is
            NaN, or if the prior is not between 1/size and 1.
    """
    if size < 2:
        raise ValueError(f"size={size}: expected at least 2 possible answers")
    most = np.log2(size)
    if not -1e-9 <= entropy_bits <= most + 1e-9:
        raise ValueError(
            f"entropy_bits={entropy_bits}: expected 0 to log2({size}) = {most:.4g} bits; check "
            "that the entropy is not in nats and that size is the number of answers"
        )
    if largest_prior is not None and not 1 / size - 1e-9 <= largest_prior <= 1:
        raise ValueError(
            f"largest_prior={largest_prior}: expected 1/size = {1 / size:.4g} to 1, the "
            "probability of the likeliest answer"
        )
    given = as_float64(information_bits)
    information = np.atleast_1d(given)
    if np.isnan(information).any():
        raise ValueError(
            f"information_bits holds NaN at {np.argwhere(np.isnan(information))[0].tolist()}; "
            "leave out steps without an estimate"
        )
    left = np.clip(entropy_bits - information, 0.0, max(entropy_bits, 0.0))
    blind = 1 - (1 / size if largest_prior is None else largest_prior)
    return ErrorBounds(
        lower=_smallest_error(left, size).reshape(given.shape),
        upper=np.minimum(left / 2, blind).reshape(given.shape),
    )


def _smallest_error(left: Float[np.ndarray, "*steps"], size: int) -> Float[np.ndarray, "*steps"]:
    """The smallest p with H_b(p) + p log2(size - 1) >= left, by bisection.

    The left side of this inequality grows with p up to p = 1 - 1/size.
    """
    low, high = np.zeros_like(left), np.full_like(left, 1 - 1 / size)
    for _ in range(60):
        middle = (low + high) / 2
        enough = binary_entropy(middle) + middle * np.log2(size - 1) >= left
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return low


def binary_entropy(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The binary entropy H_b(p) in bits."""
    p = np.clip(p, 1e-300, 1.0)
    q = np.clip(1 - p, 1e-300, 1.0)
    return np.asarray(-p * np.log2(p) - q * np.log2(q))


def entropy_bits(labels: Sequence[Hashable] | np.ndarray | Tensor) -> float:
    """The entropy of the labels' frequencies, in bits. With few labels it is too small.

    Args:
        labels: A list of labels, or an array or tensor of shape (labels,).

    Raises:
        ValueError: If there are no labels, or an array has another shape.
    """
    if isinstance(labels, Tensor | np.ndarray):  # Its elements would all count as different.
        if labels.ndim != 1:
            raise ValueError(f"labels of shape {tuple(labels.shape)}; expected (labels,)")
        labels = labels.tolist()
    if not len(labels):
        raise ValueError("no labels; expected at least one")
    share = np.array(list(Counter(labels).values())) / len(labels)
    return float((share * np.log2(1 / share)).sum())


@dataclass(frozen=True)
class AccumulatedInformation:
    """Information of the first k aligned steps together, for k = 1, 2, ...

    Attributes:
        estimates: Usable information of the first k steps, one estimate per k.
    """

    estimates: tuple[UsableInformation, ...]

    @property
    def bits(self) -> Float[np.ndarray, "step"]:
        """The estimates in bits. More steps may lower them, as a larger probe overfits more."""
        return np.array([estimate.bits for estimate in self.estimates])

    @property
    def running_maximum(self) -> Float[np.ndarray, "step"]:
        """The largest estimate so far, at least 0. More steps cannot lower the true information.

        The largest of several estimates is too high by chance; `bits` is not.
        """
        return np.maximum.accumulate(np.maximum(self.bits, 0.0))


def accumulated_information(
    states: Sequence[Float[Tensor, "row d"]],
    labels: Sequence[Hashable] | Tensor | np.ndarray,
    *,
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    shuffles: int = 20,
    seed: int = 0,
) -> AccumulatedInformation:
    """Information along the trace, I(y; h_1, ..., h_k) = sum_j I(y; h_j | h_<j), for each k.

    By the chain rule, the sum is the information of the first k steps together. So the probe reads
    the states of the first k steps side by side. Folds and shuffled labels are the same for every
    k.

    Args:
        states: The states at every aligned step, in order, each of shape (row, d). Row i is the
            same trace at every step.
        labels: As for `usable_information`.
        groups: As for `usable_information`.
        folds: As for `usable_information`.
        shuffles: As for `usable_information`.
        seed: As for `usable_information`.

    Raises:
        ValueError: If there are no steps, if the steps have different numbers of rows, or for the
            same reasons as `usable_information`.
    """
    if not states:
        raise ValueError("no steps; expected the states of at least one aligned step")
    rows = {len(step) for step in states}
    if len(rows) > 1:
        raise ValueError(
            f"steps have {sorted(rows)} rows; expected the same traces at every step: keep the "
            "traces that have all steps"
        )
    return AccumulatedInformation(
        tuple(
            usable_information(
                torch.cat([in_float64(step) for step in states[: k + 1]], dim=1),
                labels,
                groups=groups,
                folds=folds,
                shuffles=shuffles,
                seed=seed,
            )
            for k in range(len(states))
        )
    )
