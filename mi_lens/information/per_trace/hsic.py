"""The per-trace estimator: normalised HSIC between a state and the answer state, exact and fast.

The estimator compares two vectors x = h_t and y = h_y in R^d. It treats the d coordinates as d
scalar samples. With K_ij = exp(-(x_i - x_j)^2 / (2 sigma^2)), H = I - 11'/d and
R = KH (KH + eps d I)^-1,

    MI = sum_ij Rx_ij Ry_ji                     ("normalized": the values in the paper's figures)
    MI = tr(Kx H Ky H) / (d - 1)^2              ("hsic": the formula printed in the paper)

Neither needs a d x d matrix. Let K = Phi Phi' with r features, C = H Phi, G = C'C and
A = (G + eps d I)^-1. Since KH = Phi C', the push-through identity gives R = Phi A C', so

    MI = tr(Phi_x A_x C_x' Phi_y A_y C_y') = tr(A_x M A_y M'),   M = Phi_x' H Phi_y = C_x' C_y.

The answer's half, Y = C_y A_y^(1/2), is computed once. Then each state takes its features, the
product Phi_x' Y and a Cholesky factor of G_x + eps d I. The features come from `kernel_features`.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import float64_device
from mi_lens.information.per_trace.kernel_features import (
    KernelFeatures,
    Layout,
    lay_out,
    rows_at_once,
)

Estimator = Literal["normalized", "hsic"]

# A direction of the answer is left out if it contributes less than this share of the largest one.
NEGLIGIBLE = 1e-13


@torch.no_grad()
def hsic_mi(
    states: Float[Tensor, "*batch d"],
    answer: Float[Tensor, "*answers d"],
    *,
    sigma: float | Literal["median"] = 50.0,
    eps: float = 1e-5,
    estimator: Estimator = "normalized",
) -> Float[Tensor, "*shape"]:
    """Dependence between each state and the answer state. The module's docstring gives the formula.

    The time per state is proportional to the rank of its kernel, which is about the width of its
    bulk in sigmas plus the number of its far coordinates. Working memory besides the input is about
    40 MB on a CPU. Only a vector whose coordinates nearly all lie sigmas apart needs d x d
    matrices, about ten at a time.

    Args:
        states: Residual states of any floating dtype. The input is not converted as a whole.
        answer: A single answer state `[d]`, or several `[answers, d]`, on the same device.
        sigma: Kernel width in the units of the states, or "median". "median" means each vector's
            own median distance between two of its coordinates.
        eps: Regularisation, at least 1e-7. The inverse is that of K H + eps d I.
        estimator: "normalized" or "hsic".

    Returns:
        Float64 values of shape `[*batch]`, or `[*batch, answers]` for several answers, on the
        states' device, or on the CPU if that device has no float64. They have no unit; in
        particular they are not nats.

    Raises:
        ValueError: If a vector holds NaN or infinity (the message names its index), if the shapes
            do not match, if there are fewer than two coordinates, or if an argument is out of
            range.
        TypeError: If states or answer do not have a floating dtype.
    """
    states, answer = torch.as_tensor(states), torch.as_tensor(answer)
    _check(states, answer, sigma, eps, estimator)
    device = float64_device(states.device)
    states, answer = states.to(device), answer.to(device)
    d = states.shape[-1]
    ridge = eps * d if estimator == "normalized" else None
    rows = states.reshape(-1, d)
    answers = answer.reshape(-1, d)
    plan = _plan(rows, sigma, "states", states.shape[:-1])
    answer_plan = _plan(answers, sigma, "answer", answer.shape[:-1])
    # Equal answers get equal values to the last bit: p-values count ties.
    values, of_answer = answers.unique(dim=0, return_inverse=True)
    distinct = of_answer.new_empty(len(values))
    distinct[of_answer] = torch.arange(len(answers), device=answers.device)

    result = torch.empty(len(rows), len(distinct), dtype=torch.float64, device=device)
    for block, columns, owner in _answer_columns(answers[distinct], answer_plan[distinct], ridge):
        for chunk in _chunks(plan, d, len(columns)):
            features = KernelFeatures.of(rows[chunk], plan[chunk])
            gram, products = features.gram_and_products(columns)
            if ridge is not None:
                gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
                factor = torch.linalg.cholesky(gram)
                products = torch.linalg.solve_triangular(factor, products, upper=False)
            energy = products.square().sum(1)
            by_answer = energy.new_zeros(len(chunk), len(block)).index_add_(1, owner, energy)
            result[chunk[:, None], block] = by_answer
    if ridge is None:
        result /= (d - 1) ** 2
    return result[:, of_answer].reshape(states.shape[:-1] + answer.shape[:-1])


def _check(states, answer, sigma, eps, estimator) -> None:
    for name, x in (("states", states), ("answer", answer)):
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}, expected a floating dtype")
        if x.ndim == 0:
            raise ValueError(f"{name} has no dimension, expected [..., d]")
    if answer.ndim > 2:
        raise ValueError(f"answer has shape {list(answer.shape)}, expected [d] or [answers, d]")
    d = states.shape[-1]
    if answer.shape[-1] != d:
        raise ValueError(
            f"states have {d} coordinates and answer has {answer.shape[-1]}: take both at the same "
            "hook name"
        )
    if d < 2:
        raise ValueError(f"vectors have {d} coordinates, expected at least 2")
    if answer.device != states.device:
        raise ValueError(f"answer is on {answer.device} and states on {states.device}")
    if isinstance(sigma, str):
        if sigma != "median":
            raise ValueError(f"sigma is {sigma!r}, expected a positive number or 'median'")
    elif not 0 < sigma < float("inf"):
        raise ValueError(f"sigma is {sigma}, expected a positive number or 'median'")
    if not 1e-7 <= eps < float("inf"):
        raise ValueError(
            f"eps is {eps}, expected at least 1e-7: float64 is not precise enough for less"
        )
    if estimator not in ("normalized", "hsic"):
        raise ValueError(f"estimator is {estimator!r}, expected 'normalized' or 'hsic'")


def _plan(x: Float[Tensor, "rows d"], sigma, name: str, batch: torch.Size) -> Layout:
    """The layouts of all rows. This first pass over the input also checks that it is finite."""
    low, high = x.amin(-1), x.amax(-1)
    bad = (~(low.isfinite() & high.isfinite())).nonzero()
    if len(bad):
        index = tuple(int(i) for i in torch.unravel_index(bad[0, 0], batch)) if batch else ()
        at = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise ValueError(f"{at} holds NaN or infinity; {len(bad)} of {len(x)} vectors do")
    parts = []
    for chunk in x.split(rows_at_once(4 * x.shape[-1], x.device)):
        if sigma == "median":
            widths = median_distance(chunk)
            if (widths == 0).any():
                raise ValueError(
                    f"{name}: half of a vector's coordinates are equal, so their median distance"
                    " is 0; expected sigma as a number"
                )
        else:
            widths = torch.full_like(chunk[:, 0], float(sigma), dtype=torch.float64)
        parts.append(lay_out(chunk, widths))
    return Layout.join(parts)


def median_distance(x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows"]:
    """Median of |x_i - x_j| over the d (d - 1) / 2 pairs.

    For an even number of pairs this is the lower of the two middle values. The method is bisection
    on the sorted coordinates: an iteration takes time d log d and never forms all pairs.
    """
    x = x.double().sort(-1).values
    x = x - x[:, :1]
    d = x.shape[-1]
    middle = (d * (d - 1) // 2 + 1) // 2
    place = torch.arange(1, d + 1, device=x.device)

    def reach(distance: Tensor) -> Tensor:
        return torch.searchsorted(x, x + distance[:, None], right=True)

    below, above = torch.zeros_like(x[:, 0]), x[:, -1].clone()
    above[(reach(below) - place).sum(-1) >= middle] = 0.0
    for _ in range(64):
        half = below + (above - below) / 2
        enough = (reach(half) - place).sum(-1) >= middle
        below, above = torch.where(enough, below, half), torch.where(enough, half, above)
    # The exact distance of a pair, not the bisection's upper bound on it.
    return (x.gather(-1, reach(above) - 1) - x).amax(-1)


def _chunks(plan: Layout, d: int, n_columns: int) -> Iterator[Int[Tensor, "chunk"]]:
    """Chunks of rows with similar layouts. Each chunk fits the working memory."""
    device = plan.order.device
    order, far = torch.stack([plan.order, plan.far]).cpu()  # Sorted there without waiting again.
    kind = torch.stack([far, order.clamp(min=1).log2().ceil().long()], dim=-1)
    for group in kind.unique(dim=0):
        rows = (kind == group).all(-1).nonzero().squeeze(-1)
        rows = rows[order[rows].argsort()]
        rank = int((order[rows] + far[rows]).max())
        ranking = 4 * d if group[0] else d  # Finding the far coordinates takes copies of the row.
        numbers_per_row = max(ranking, rank * max(4 * rank, n_columns))
        yield from rows.to(device).split(rows_at_once(numbers_per_row, device))


def _answer_columns(
    answers: Float[Tensor, "answers d"], plan: Layout, ridge: float | None
) -> Iterator[tuple[Int[Tensor, "block"], Float[Tensor, "columns d"], Int[Tensor, "columns"]]]:
    """Blocks of answers.

    Yields:
        The indices of the block's answers; the columns Y = C_y A_y^(1/2) of these answers, as rows;
        and for each column the position of its answer in the block.
    """
    d = answers.shape[-1]
    most = max(1, 2**25 // d)
    block: list[Tensor] = []
    columns: list[Tensor] = []
    owners: list[Tensor] = []
    chunks = list(_chunks(plan, d, d))
    for i, chunk in enumerate(chunks, start=1):
        whitened, owner = _whitened(answers[chunk], plan[chunk], ridge)
        owners.append(owner + sum(map(len, block)))
        columns.append(whitened)
        block.append(chunk)
        if i == len(chunks) or sum(map(len, columns)) >= most:
            yield torch.cat(block), torch.cat(columns), torch.cat(owners)
            block, columns, owners = [], [], []


def _whitened(
    answers: Float[Tensor, "chunk d"], layout: Layout, ridge: float | None
) -> tuple[Float[Tensor, "columns d"], Int[Tensor, "columns"]]:
    """Y' such that Y Y' = H Ry H of each answer, or H Ky H without a ridge; and whose each row is.

    All answers of the chunk have equal numbers of far coordinates.
    """
    phi = KernelFeatures.of(answers, layout).expand()
    centred = phi - phi.mean(1, keepdim=True)
    strength, directions = torch.linalg.eigh(centred.mT @ centred)
    strength = strength.clamp(min=0)
    weight = torch.ones_like(strength) if ridge is None else 1 / (strength + ridge)
    carried = strength * weight
    kept = carried > NEGLIGIBLE * carried.amax(-1, keepdim=True)
    whitened = (directions * weight.sqrt()[:, None]).mT @ centred.mT
    owner, direction = kept.nonzero().unbind(1)
    return whitened[owner, direction], owner
