"""What information about the answer says about the error of a guess, in bits.

Theorem 1 (Fano) bounds from below the error of *any* guess made from the state h; theorem 2
(Hellman and Raviv) bounds from above the error of the *best* guess, the likeliest answer given h.
Neither speaks of the model's own error from above: a model may guess worse than its states allow.

Both are theorems about the mutual information. A probe's usable information falls short of it, up
to chance. With it theorem 2 still holds, only less tight; theorem 1 then holds for guesses made
from what the probe reads, and a guess that reads more may err less.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.information.across_problems.probe import UsableInformation, usable_information


@dataclass(frozen=True)
class ErrorBounds:
    """Bounds on the probability of error, in the shape of the information they come from.

    Attributes:
        lower: Any guess made from h errs at least so often (theorem 1).
        upper: The best guess made from h errs at most so often (theorem 2).
    """

    lower: Float[np.ndarray, "*steps"]
    upper: Float[np.ndarray, "*steps"]


def error_bounds(
    entropy_bits: float,
    information_bits: float | Sequence[float] | Float[np.ndarray, "*steps"],
    size: int,
    *,
    largest_prior: float | None = None,
) -> ErrorBounds:
    """Bounds on the error of guesses of y from h, given I(y; h).

    Lower: the smallest p with H(y) - I <= H_b(p) + p log2(size - 1), which is theorem 1 with p_e
    on both sides, not divided by a logarithm that is 0 for two answers. Upper: (H(y) - I) / 2, but
    not above what guessing without h attains.

    Information is taken to lie between 0 and H(y), where the true value lies: an estimate below 0
    counts as 0, one above H(y) as H(y).

    Args:
        entropy_bits: H(y).
        information_bits: I(y; h), one number or an array, such as one a step.
        size: |Y|, how many answers are possible.
        largest_prior: Probability of the likeliest answer where it is known; the best guess errs
            at most 1 - largest_prior of the time. Else 1 - 1/size.

    Raises:
        ValueError: If size is below 2, H(y) is not between 0 and log2(size), information is NaN, or
            the prior is not between 1/size and 1.
    """
    if size < 2:
        raise ValueError(f"size={size}: expected at least 2 possible answers")
    most = np.log2(size)
    if not -1e-9 <= entropy_bits <= most + 1e-9:
        raise ValueError(
            f"entropy_bits={entropy_bits}: expected 0 to log2({size}) = {most:.4g} bits; is it in "
            "nats, or size not the number of answers?"
        )
    if largest_prior is not None and not 1 / size - 1e-9 <= largest_prior <= 1:
        raise ValueError(
            f"largest_prior={largest_prior}: expected 1/size = {1 / size:.4g} to 1, the "
            "probability of the likeliest answer"
        )
    information = np.array(information_bits, dtype=np.float64, ndmin=1)
    if np.isnan(information).any():
        raise ValueError(
            f"information_bits holds NaN at {np.argwhere(np.isnan(information))[0].tolist()}; "
            "leave out steps without an estimate"
        )
    left = np.clip(entropy_bits - information, 0.0, max(entropy_bits, 0.0))
    blind = 1 - (1 / size if largest_prior is None else largest_prior)
    shape = np.shape(information_bits)
    return ErrorBounds(
        lower=_smallest_error(left, size).reshape(shape),
        upper=np.minimum(left / 2, blind).reshape(shape),
    )


def _smallest_error(left: Float[np.ndarray, "*steps"], size: int) -> Float[np.ndarray, "*steps"]:
    """The smallest p that leaves so many bits open, which grow with p up to 1 - 1/size."""
    low, high = np.zeros_like(left), np.full_like(left, 1 - 1 / size)
    for _ in range(60):
        middle = (low + high) / 2
        enough = binary_entropy(middle) + middle * np.log2(size - 1) >= left
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return low


def binary_entropy(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """H_b(p) in bits."""
    p = np.clip(p, 1e-300, 1.0)
    q = np.clip(1 - p, 1e-300, 1.0)
    return np.asarray(-p * np.log2(p) - q * np.log2(q))


def entropy_bits(labels: Sequence[Hashable]) -> float:
    """Entropy of labels by their frequencies, in bits: below the truth where labels are few.

    Raises:
        ValueError: If there are none.
    """
    if not len(labels):
        raise ValueError("no labels; expected at least one")
    share = np.array(list(Counter(labels).values())) / len(labels)
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class AccumulatedInformation:
    """Information of the first k aligned steps together, for k = 1, 2, ...

    Attributes:
        estimates: Usable information of each set of steps.
    """

    estimates: tuple[UsableInformation, ...]

    @property
    def bits(self) -> Float[np.ndarray, "step"]:
        """The estimates; more steps may lower them: a probe of more coordinates overfits more."""
        return np.array([estimate.bits for estimate in self.estimates])

    @property
    def running_maximum(self) -> Float[np.ndarray, "step"]:
        """The largest estimate so far, and at least 0: further steps cannot take information away.

        Being the largest of several estimates it errs upward by chance; `bits` does not.
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

    By the chain rule the sum is the information of all steps together: the probe reads the states
    of the first k steps side by side. Folds and shuffled labels are the same for every k.

    Args:
        states: For every aligned step, in order, its states: row i of each is the same trace.
        labels: As for `usable_information`, and so the rest.
        groups: As there.
        folds: As there.
        shuffles: As there.
        seed: As there.

    Raises:
        ValueError: If there are no steps, they differ in rows, or as in `usable_information`.
    """
    if not states:
        raise ValueError("no steps; expected the states of at least one aligned step")
    rows = {len(step) for step in states}
    if len(rows) > 1:
        raise ValueError(
            f"steps have {sorted(rows)} rows; expected the same traces at every step: keep those "
            "that have all of them"
        )
    return AccumulatedInformation(
        tuple(
            usable_information(
                torch.cat([step.double() for step in states[: k + 1]], dim=1),
                labels,
                groups=groups,
                folds=folds,
                shuffles=shuffles,
                seed=seed,
            )
            for k in range(len(states))
        )
    )
