"""Is a state independent of the answer? A kernel test over problems, whatever the dependence.

The Hilbert-Schmidt independence criterion between states and labels, by the unbiased estimator of
Song et al. (2012), 0 on average under independence, with a permutation test; and its normalised
value, centred kernel alignment (CKA), as a size of the effect. Unlike a linear probe it also sees
what is not linear; unlike usable information it is not in bits.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.resampling import problem_index, require_finite, shuffled_rows
from mi_lens.information.across_problems.probe import label_index


@dataclass(frozen=True)
class IndependenceTest:
    """A test that states and labels are independent.

    Attributes:
        hsic: Unbiased HSIC; negative values happen under independence.
        cka: hsic / sqrt(hsic of states with themselves x that of labels): up to 1, 0 on average
            under independence at any number of problems.
        p_value: (1 + permutations that reach hsic) / (1 + permutations).
        permutations: Of labels between problems.
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

    The kernel of states is Gaussian over standardised coordinates (else one massive coordinate
    would be all the distance there is), its width the median distance of two states. Labels have a
    delta kernel, 1 for equal ones; numeric labels a Gaussian one, with their median distance.

    Args:
        states: One row a problem, or a trace.
        labels: One a row.
        numeric: Whether near numbers are alike, as answers by their size; else labels are equal or
            different, as last digits.
        groups: The problem of each row, where problems repeat; labels are permuted between
            problems. Rows of one problem still count as rows in hsic and cka.
        permutations: The smallest p-value is 1 / (permutations + 1).
        seed: Of the permutations.

    Raises:
        ValueError: If lengths differ, there are fewer than 4 rows, a state or number is not finite,
            states or labels do not vary, every label occurs once (unless numeric), or a problem has
            two labels.
    """
    if states.ndim != 2 or len(states) < 4 or not states.shape[1]:
        raise ValueError(f"states have shape {tuple(states.shape)}; expected (4 or more rows, d)")
    if len(labels) != len(states):
        raise ValueError(f"{len(labels)} labels for {len(states)} rows of states; expected as many")
    x = states.detach().to("cpu", torch.float64)
    require_finite(x.isfinite().all(1).numpy(), "states")
    index = label_index(labels)
    if numeric:
        values = torch.as_tensor(np.asarray(labels, dtype=np.float64))[:, None]
        require_finite(values.isfinite().all(1).numpy(), "labels")
        of_labels = gaussian_kernel(values)
    else:
        if len(set(index.tolist())) == len(index):
            raise ValueError(
                f"all {len(index)} labels are different, so that no two are alike; use "
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
        # Equal up to rounding counts as reached: some permutations only swap equal labels.
        p_value=(1 + int((null >= hsic - 1e-12 * scale).sum())) / (1 + permutations),
        permutations=permutations,
    )


def gaussian_kernel(x: Float[Tensor, "row d"]) -> Float[Tensor, "row row"]:
    """exp(-|x_i - x_j|^2 / (2 w^2)), w the median distance between two rows that differ.

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
    """The kernel without its diagonal, centred so that products with others are unbiased."""
    n = len(kernel)
    kernel = kernel - torch.diag(kernel.diagonal())
    sums = kernel.sum(0) / (n - 2)
    centred = kernel - sums[:, None] - sums + kernel.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(centred.diagonal())


def _hsic(centred: Float[Tensor, "row row"], kernel: Float[Tensor, "row row"]) -> Tensor:
    """Unbiased HSIC of a U-centred kernel with another: centring one of the two is enough."""
    n = len(kernel)
    return (centred * kernel).sum() / (n * (n - 3))
