"""Usable information: how many bits of a label a linear probe reads from a state, across problems.

This is the V-information (Xu et al. 2020) of a family V of predictors that may ignore the state:

    I_V(h -> y) = H_V(y) - H_V(y | h)

H_V(y | h) is the held-out cross-entropy of the family's best predictor, here multinomial logistic
regression with an L2 penalty. H_V(y) is the held-out cross-entropy of the family's best constant
predictor, which predicts the label frequencies. Both predictors are fitted on the same problems and
tested on the same other problems. So neither a probe that only overfits nor a fold with unusual
labels gains anything. Up to chance, the estimate lies *below* the mutual information: it misses
what a linear probe cannot read, and what the probe cannot learn from so few problems.

scikit-learn fits a single regression at a time. Here a call fits tens of thousands, because it
shuffles labels and tries penalties in every fold. They share the states' eigendecomposition.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import log

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_lens.common.resampling import (
    bootstrap_counts,
    percentiles,
    problem_index,
    require_finite,
    shuffled_rows,
    split_into_folds,
)

# L2 penalties of the weights, for states whose squared norm is 1 on average. The constant predictor
# is tried as well; it corresponds to an infinite penalty.
PENALTIES = (100.0, 10.0, 1.0, 0.1, 0.01)
ITERATIONS = 20  # Per penalty. Each penalty starts from the weights of the penalty before.
SHUFFLES_AT_ONCE = 2**23  # Limit of rows x classes x shuffles in memory.


@dataclass(frozen=True)
class UsableInformation:
    """The bits of a label that a probe reads on held-out problems.

    Attributes:
        gains: For every row, the bits that the probe saves over the constant guess,
            log2 q(y | h) - log2 q(y).
        correct: For every row, whether the probe's likeliest label is the true label.
        entropy: H(y), the held-out cross-entropy of the constant guess, in bits.
        shuffled: The usable bits of labels that were shuffled between problems, one value per
            shuffle.
        problem: For every row, the index of its problem.
    """

    gains: tuple[float, ...]
    correct: tuple[bool, ...]
    entropy: float
    shuffled: tuple[float, ...]
    problem: tuple[int, ...]

    @property
    def bits(self) -> float:
        """Usable information in bits. If negative, the probe is worse than the constant guess."""
        return float(np.mean(self.gains))

    @property
    def cross_entropy(self) -> float:
        """The held-out cross-entropy of the probe in bits: entropy - bits."""
        return self.entropy - self.bits

    @property
    def error(self) -> float:
        """Share of held-out rows for which the probe's likeliest label is wrong."""
        return 1 - float(np.mean(self.correct))

    @property
    def problems(self) -> int:
        """Number of problems."""
        return len(set(self.problem))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % percentile interval of the bits, from 2000 resamples of the held-out problems.

        The interval covers the choice of the test problems. It does not cover the choice of the
        training problems, nor the bias of a probe that was trained on few problems.
        """
        counts = bootstrap_counts(np.array(self.problem), 2000, seed=0)
        return percentiles(counts @ np.array(self.gains) / counts.sum(1), 0.95)

    @property
    def floor(self) -> float:
        """Mean bits with shuffled labels, which is the procedure's result without information."""
        return float(np.mean(self.shuffled)) if self.shuffled else float("nan")

    @property
    def floor_high(self) -> float:
        """The 95 % quantile of the bits with shuffled labels."""
        return float(np.quantile(self.shuffled, 0.95)) if self.shuffled else float("nan")

    @property
    def p_value(self) -> float:
        """Share of shuffles with at least as many bits. The true labels count as a shuffle."""
        reached = sum(bits >= self.bits for bits in self.shuffled)
        return (1 + reached) / (1 + len(self.shuffled))


def usable_information(
    states: Float[Tensor, "row d"],
    labels: Sequence[Hashable] | Int[Tensor, "row"] | Int[np.ndarray, "row"],
    *,
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    shuffles: int = 20,
    seed: int = 0,
) -> UsableInformation:
    """Bits of a label that a cross-validated linear probe reads from states across problems.

    States are standardised with the means and deviations of the training problems. The penalty is
    chosen on the training problems too, by cross-validation over the remaining folds. If the
    constant guess is better than the probe at every penalty, the constant guess is used.

    The probabilities are mixed with the training frequencies, as if these were one more example:
    q = (m probe + frequencies) / (m + 1) with m training rows. The frequencies count each label
    once more than it occurs. So a label that does not occur in training costs a finite number of
    bits, which differs between the two guesses by at most log2(m + 1).

    Args:
        states: One row per problem or per trace, shape (row, d).
        labels: The labels to read, such as the answer's last digit. One hashable label per row.
        groups: The problem of each row, if problems repeat. Rows of the same problem stay in the
            same fold.
        folds: Number of folds, at least 3. Each penalty is tried on every pair of left-out folds.
        shuffles: Number of shuffles of the labels, for the floor. 0 means no shuffles.
        seed: Seed of folds and shuffles.

    Raises:
        ValueError: If the lengths differ, a state is not finite, there are fewer than two different
            labels, fewer than 3 folds or more folds than problems, or a problem has two labels.
    """
    states = torch.as_tensor(states)
    if states.ndim != 2 or not states.numel():
        raise ValueError(f"states have shape {tuple(states.shape)}; expected (rows, d), not empty")
    if len(labels) != len(states):
        raise ValueError(f"{len(labels)} labels for {len(states)} rows of states; expected as many")
    x = states.detach().cpu().double()
    require_finite(x.isfinite().all(1).numpy(), "states")
    label = label_index(labels)
    problem = problem_index(groups, len(x))
    rng = np.random.default_rng(seed)
    fold = torch.from_numpy(split_into_folds(problem, folds, rng))
    # The first labelling has the true labels.
    rows = np.vstack([np.arange(len(x)), shuffled_rows(problem, label, shuffles, rng)])
    labellings = torch.from_numpy(label[rows])

    at_once = max(1, SHUFFLES_AT_ONCE // (len(x) * (int(label.max()) + 1)))
    parts = [_cross_validate(x, batch, fold) for batch in labellings.split(at_once)]
    gains = torch.cat([gain for gain, _, _ in parts])
    _, correct, paid = parts[0]
    return UsableInformation(
        gains=tuple(gains[0].tolist()),
        correct=tuple(correct[0].tolist()),
        entropy=float(paid[0].mean()),
        shuffled=tuple(gains[1:].mean(1).tolist()),
        problem=tuple(problem.tolist()),
    )


def label_index(labels: Sequence[Hashable] | Tensor | np.ndarray) -> Int[np.ndarray, "row"]:
    """Labels as 0, 1, ... in order of appearance.

    Raises:
        ValueError: If all labels are equal.
    """
    values = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(value, len(numbers)) for value in values])
    if len(numbers) < 2:
        raise ValueError(
            f"all {len(index)} labels are {next(iter(numbers), None)!r}; expected at least two "
            "different labels, because information about a constant is 0"
        )
    return index


def _cross_validate(
    x: Float[Tensor, "row d"], labels: Int[Tensor, "labelling row"], fold: Int[Tensor, "row"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out gains in bits, correctness, and the constant guess's bits, each [labelling, row].

    The penalty for fold f has the smallest loss when every other fold g is predicted by a probe
    that was fitted without f and g. The same fit serves the choices for both f and g. So the nested
    cross-validation takes folds x (folds - 1) / 2 fits instead of twice as many.
    """
    folds = int(fold.max()) + 1
    classes = int(labels.max()) + 1
    losses = x.new_zeros(folds, len(PENALTIES) + 1, len(labels))
    for f, g in combinations(range(folds), 2):
        left_out = (fold == f) | (fold == g)
        inner = _predictions(x, labels, ~left_out, left_out, classes)
        truth = labels[:, left_out]
        for i, log_q in enumerate(inner):
            bits = -_of_truth(log_q, truth)
            losses[f, i] += bits[:, fold[left_out] == g].sum(1)
            losses[g, i] += bits[:, fold[left_out] == f].sum(1)

    gains = x.new_zeros(labels.shape)
    constant = x.new_zeros(labels.shape)
    correct = torch.zeros(labels.shape, dtype=torch.bool)
    for f, best in enumerate(losses.argmin(1)):
        held_out = fold == f
        truth = labels[:, held_out]
        guesses = list(_predictions(x, labels, ~held_out, held_out, classes))
        constant[:, held_out] = -_of_truth(guesses[0], truth)
        for i, log_q in enumerate(guesses):
            chosen = (best == i).nonzero()
            gain = _of_truth(log_q, truth) + constant[:, held_out]
            hit = log_q.argmax(0) == truth
            gains[chosen, held_out] = gain[chosen[:, 0]]
            correct[chosen, held_out] = hit[chosen[:, 0]]
    return gains, correct, constant


def _of_truth(
    log_q: Float[Tensor, "label labelling test"], truth: Int[Tensor, "labelling test"]
) -> Float[Tensor, "labelling test"]:
    """Log probability of the true labels, in bits."""
    return log_q.gather(0, truth[None])[0].double() / log(2)


def _predictions(
    x: Float[Tensor, "row d"],
    labels: Int[Tensor, "labelling row"],
    train: Bool[Tensor, "row"],
    test: Bool[Tensor, "row"],
    classes: int,
) -> Iterator[Float[Tensor, "label labelling test"]]:
    """Log probabilities of labels: first by the constant guess, then by the probe per penalty."""
    is_label = labels[None, :, train] == torch.arange(classes)[:, None, None]
    m = is_label.shape[-1]
    frequencies = ((is_label.sum(-1) + 1) / (m + classes))[..., None]
    yield frequencies.log().expand(-1, -1, int(test.sum()))
    features, strength, test_features = _principal_features(x[train], x[test])
    for weights, intercept in _regression_path(features, strength, is_label, frequencies):
        probe = (weights @ test_features.T + intercept).softmax(0)
        yield ((m * probe + frequencies) / (m + 1)).log()


def _principal_features(
    train: Float[Tensor, "train d"], test: Float[Tensor, "test d"]
) -> tuple[Float[Tensor, "train rank"], Float[Tensor, "rank"], Float[Tensor, "test rank"]]:
    """Standardised states in the principal coordinates of training, and the squared lengths there.

    The change of coordinates is a rotation, so a penalised probe of these features equals the
    penalised probe of all d coordinates. float32 is exact enough: the directions that are left out
    are smaller than the penalties by orders of magnitude.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0)
    # A coordinate that varies in training only by rounding is left out.
    varies = deviation > 1e-10 * train.abs().amax(0)
    scale = varies / torch.where(varies, deviation, 1.0) / max(int(varies.sum()), 1) ** 0.5
    train, test = ((train - mean) * scale).float(), ((test - mean) * scale).float()
    m, d = train.shape
    strength, vectors = torch.linalg.eigh(train @ train.T if m < d else train.T @ train)
    kept = strength > 1e-6 * m
    strength, vectors = strength[kept], vectors[:, kept]
    directions = train.T @ (vectors / strength.sqrt()) if m < d else vectors
    return train @ directions, strength, test @ directions


def _regression_path(
    features: Float[Tensor, "train rank"],
    strength: Float[Tensor, "rank"],
    is_label: Bool[Tensor, "label labelling train"],
    frequencies: Float[Tensor, "label labelling 1"],
) -> Iterator[tuple[Float[Tensor, "label labelling rank"], Float[Tensor, "label labelling 1"]]]:
    """Weights and intercepts for each penalty, strongest first, for all labellings together.

    The Hessian of the log loss is at most half the Hessian of least squares (Boehning 1992), which
    is diagonal here. Every iteration divides the gradient by this bound and uses Nesterov's
    momentum. Each penalty starts from the weights of the penalty before. Strong penalties converge.
    Weak penalties may not; then early stopping helps to keep the weights small.
    """
    # The intercept is the weight of a constant feature, which has no penalty.
    features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    penalised = torch.cat([torch.ones_like(strength), strength.new_zeros(1)])
    strength = torch.cat([strength, strength.new_tensor([len(features)])])
    weights = torch.nn.functional.pad(frequencies.log(), (len(strength) - 1, 0))
    targets, transposed, ahead = is_label.float(), features.T.contiguous(), weights
    for i, penalty in enumerate(np.repeat(PENALTIES, ITERATIONS)):
        shrinkage = penalty * penalised
        slope = ((ahead @ transposed).softmax(0) - targets) @ features + shrinkage * ahead
        before, weights = weights, torch.addcdiv(ahead, slope, strength / 2 + shrinkage, value=-1)
        ahead = torch.lerp(before, weights, 1 + i / (i + 3))
        if (i + 1) % ITERATIONS == 0:
            yield weights[..., :-1], weights[..., -1:]
