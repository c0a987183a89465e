"""Is a state independent of the answer? A kernel test over problems for every kind of dependence.

The test uses the Hilbert-Schmidt independence criterion (HSIC) between states and labels, with the
unbiased estimator of Song et al. (2012), which is 0 on average under independence. A permutation
test gives the p-value. The effect size is the normalised HSIC, centred kernel alignment (CKA).
Unlike a linear probe, the test also detects nonlinear dependence. Unlike usable information, it is
not in bits.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.arrays import as_float64
from mi_lens.common.resampling import problem_index, require_finite, shuffled_rows
from mi_lens.information.across_problems.probe import label_index

LARGEST = 1e150  # The squares of larger numbers overflow.


@dataclass(frozen=True)
class IndependenceTest:
    """A test that states and labels are independent.

    Attributes:
        hsic: Unbiased HSIC. Under independence it may be negative.
        cka: hsic / sqrt(hsic of states with states x hsic of labels with labels). It is at most 1.
            Under independence it is 0 on average for every number of problems.
        p_value: (1 + permutations that reach hsic) / (1 + permutations).
        permutations: Number of permutations of labels between problems.
    """

    hsic: float
    cka: float
    p_value: float
    permutations: int


@torch.no_grad()
def independence_test(
    states: Float[Tensor, "row d"],
    labels: Sequence[Hashable] | Tensor | np.ndarray,
    *,
    numeric: bool = False,
    groups: Sequence[Hashable] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> IndependenceTest:
    """Tests across problems whether states depend on labels.

    The kernel of states is Gaussian, and its width is the median distance of two states. The
    coordinates are standardised first; otherwise one massive coordinate would decide all distances.
    The kernel of labels is a delta kernel, which is 1 for equal labels and 0 for others. If labels
    are numeric, their kernel is Gaussian, with their median distance as its width.

    Args:
        states: One row per problem or per trace, shape (row, d).
        labels: One label per row.
        numeric: If true, labels are numbers that are similar if they are close, such as whole
            answers. If false, labels are either equal or different, such as last digits.
        groups: The problem of each row, if problems repeat. Labels are permuted between problems.
            In hsic and cka every row counts, also if rows share a problem.
        permutations: Number of permutations. The smallest p-value is 1 / (permutations + 1).
        seed: Seed of the permutations.

    Raises:
        ValueError: If the lengths differ, if there are fewer than 4 rows, if a state or number is
            not finite, if a number is 1e150 or more, if the states or labels do not vary, if all
            labels are different (unless numeric), or if a problem has two labels.
    """
    states = torch.as_tensor(states)
    if states.ndim != 2 or len(states) < 4 or not states.shape[1]:
        raise ValueError(f"states have shape {tuple(states.shape)}; expected (4 or more rows, d)")
    if len(labels) != len(states):
        raise ValueError(f"{len(labels)} labels for {len(states)} rows of states; expected as many")
    x = states.detach().cpu().double()
    require_finite(x.isfinite().all(1).numpy(), "states")
    index = label_index(labels)
    if numeric:
        values = torch.from_numpy(as_float64(labels))[:, None]
        require_finite((values.abs() < LARGEST)[:, 0].numpy(), f"labels (below {LARGEST:.0e})")
        of_labels = gaussian_kernel(values)
    else:
        if len(set(index.tolist())) == len(index):
            raise ValueError(
                f"all {len(index)} labels are different, but the test needs equal labels; use "
                "numeric=True, or a part of the answer such as its last digit"
            )
        of_labels = torch.from_numpy(index[:, None] == index).double()
    of_states = gaussian_kernel(_standardise(x))

    problem = problem_index(groups, len(x))
    rng = np.random.default_rng(seed)
    centred = _u_centred(of_states)
    hsic = _hsic(centred, of_labels)
    null = (
        torch.stack(
            [
                _hsic(centred, of_labels[rows][:, rows])
                for rows in torch.from_numpy(shuffled_rows(problem, index, permutations, rng))
            ]
        )
        if permutations
        else torch.empty(0)
    )
    scale = (
        (_hsic(centred, of_states) * _hsic(_u_centred(of_labels), of_labels)).clamp(min=0).sqrt()
    )
    return IndependenceTest(
        hsic=float(hsic),
        cka=float(hsic / scale),
        # The tolerance is for permutations that only swap equal labels: they equal hsic but for
        # rounding, and must count.
        p_value=(1 + int((null >= hsic - 1e-12 * scale).sum())) / (1 + permutations),
        permutations=permutations,
    )


def gaussian_kernel(x: Float[Tensor, "row d"]) -> Float[Tensor, "row row"]:
    """exp(-|x_i - x_j|^2 / (2 w^2)), where w is the median distance between two different rows.

    Raises:
        ValueError: If all rows are equal.
    """
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distance[distance > 0]
    if not len(apart):
        raise ValueError(f"all {len(x)} rows are equal; dependence on a constant is not defined")
    return torch.exp(-(distance**2) / (2 * apart.median() ** 2))


def _standardise(x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    centred, deviation = x - x.mean(0), x.std(0, correction=0)
    varies = deviation > 1e-10 * x.abs().amax(0)
    return centred * varies / torch.where(varies, deviation, 1.0)


def _u_centred(kernel: Float[Tensor, "row row"]) -> Float[Tensor, "row row"]:
    """The kernel with a zero diagonal, centred so that products with other kernels are unbiased."""
    n = len(kernel)
    kernel = kernel - torch.diag(kernel.diagonal())
    sums = kernel.sum(0) / (n - 2)
    centred = kernel - sums[:, None] - sums + kernel.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(centred.diagonal())


def _hsic(centred: Float[Tensor, "row row"], kernel: Float[Tensor, "row row"]) -> Tensor:
    """Unbiased HSIC of a U-centred kernel and another kernel, which need not be centred."""
    n = len(kernel)
    return (centred * kernel).sum() / (n * (n - 3))
