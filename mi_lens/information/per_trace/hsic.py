"""The per-trace estimator: normalised HSIC between a state and the answer state, exact and fast.

One pair of vectors x = h_t, y = h_y in R^d; the d coordinates are treated as d scalar samples.
With K_ij = exp(-(x_i - x_j)^2 / (2 sigma^2)), H = I - 11'/d and R = KH (KH + eps d I)^-1,

    MI = sum_ij Rx_ij Ry_ji                     ("normalized": what the paper's figures show)
    MI = tr(Kx H Ky H) / (d - 1)^2              ("hsic": what the paper prints)

Neither needs a d x d matrix. Let K = Phi Phi' with r features, C = H Phi, G = C'C and
A = (G + eps d I)^-1. Since KH = Phi C', pushing the inverse through gives R = Phi A C', so

    MI = tr(Phi_x A_x C_x' Phi_y A_y C_y') = tr(A_x M A_y M'),   M = Phi_x' H Phi_y = C_x' C_y.

The answer's half is Y = C_y A_y^(1/2), computed once; a state then costs its features, one product
Phi_x' Y and one Cholesky factor of G_x + eps d I. The features come from `kernel_features`.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.information.per_trace.kernel_features import (
    KernelFeatures,
    Layout,
    lay_out,
    rows_at_once,
)

Estimator = Literal["normalized", "hsic"]

NEGLIGIBLE = 1e-13  # a direction of the answer that carries less than this is left out


@torch.no_grad()
def hsic_mi(
    states: Float[Tensor, "*batch d"],
    answer: Float[Tensor, "*answers d"],
    *,
    sigma: float | Literal["median"] = 50.0,
    eps: float = 1e-5,
    estimator: Estimator = "normalized",
) -> Float[Tensor, "*shape"]:
    """Dependence between each state and the answer state (see the module's first lines).

    A state costs in proportion to the rank of its kernel: the width of its bulk in sigmas plus its
    far coordinates. Working memory beyond the input is some 40 MB on a CPU; only a vector whose
    coordinates nearly all lie sigmas apart needs d x d matrices, about ten at once.

    Args:
        states: Residual states, of any floating dtype, read in that dtype.
        answer: One answer state `[d]`, or several `[answers, d]`, on the same device.
        sigma: Kernel width in the units of the states, or "median": each vector's own median
            distance between two of its coordinates.
        eps: Regularisation; the inverse is of K H + eps d I. At least 1e-7.
        estimator: "normalized" or "hsic".

    Returns:
        Float64 `[*batch]`, or `[*batch, answers]` for several answers. Without a unit; not nats.

    Raises:
        ValueError: NaN or infinity in a vector (its index is named), shapes that do not match,
            fewer than two coordinates, or an argument out of range.
        TypeError: states or answer that are not of a floating dtype.
    """
    _check(states, answer, sigma, eps, estimator)
    d = states.shape[-1]
    ridge = eps * d if estimator == "normalized" else None
    rows = states.reshape(-1, d)
    answers = answer.reshape(-1, d)
    plan = _plan(rows, sigma, "states", states.shape[:-1])
    answer_plan = _plan(answers, sigma, "answer", answer.shape[:-1])

    result = torch.empty(len(rows), len(answers), dtype=torch.float64, device=states.device)
    for some, columns, owner in _answer_columns(answers, answer_plan, ridge):
        for chunk in _chunks(plan, d, len(columns)):
            features = KernelFeatures.of(rows[chunk], plan[chunk])
            gram, products = features.gram_and_products(columns)
            if ridge is not None:
                gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
                factor = torch.linalg.cholesky(gram)
                products = torch.linalg.solve_triangular(factor, products, upper=False)
            energy = products.square().sum(1)
            by_answer = energy.new_zeros(len(chunk), len(some)).index_add_(1, owner, energy)
            result[chunk[:, None], some] = by_answer
    if ridge is None:
        result /= (d - 1) ** 2
    return result.reshape(states.shape[:-1] + answer.shape[:-1])


def mi_trajectories(
    activations: dict[str, Float[Tensor, "step d"]],
    answer_state: dict[str, Float[Tensor, "d"]],
    *,
    sigma: float | Literal["median"] = 50.0,
    eps: float = 1e-5,
    estimator: Estimator = "normalized",
) -> Float[Tensor, "hook step"]:
    """MI trajectories of one trace at every hook name, in the order of `activations`.

    Args:
        activations: States per hook name, equally many steps each.
        answer_state: The answer state at each of the same hook names.
        sigma: As in `hsic_mi`.
        eps: As in `hsic_mi`.
        estimator: As in `hsic_mi`.

    Raises:
        ValueError: The hook names or the numbers of steps differ, or as in `hsic_mi`.
    """
    if not activations:
        raise ValueError("activations is empty: give the states of at least one hook name")
    if activations.keys() != answer_state.keys():
        alone = sorted(activations.keys() ^ answer_state.keys())
        raise ValueError(
            f"activations and answer_state must share their hook names; not in both: {alone}"
        )
    steps = {hook: len(states) for hook, states in activations.items()}
    if len(set(steps.values())) > 1:
        raise ValueError(f"every hook name needs the same number of steps, got {steps}")
    return torch.stack(
        [
            hsic_mi(states, answer_state[hook], sigma=sigma, eps=eps, estimator=estimator)
            for hook, states in activations.items()
        ]
    )


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
            f"states have {d} coordinates and answer has {answer.shape[-1]}: take both at one hook"
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
        raise ValueError(f"eps is {eps}, expected at least 1e-7: below, float64 is not enough")
    if estimator not in ("normalized", "hsic"):
        raise ValueError(f"estimator is {estimator!r}, expected 'normalized' or 'hsic'")


def _plan(x: Float[Tensor, "rows d"], sigma, name: str, batch: torch.Size) -> Layout:
    """Layouts of all rows; the first pass over the input, which also finds what is not finite."""
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
                    " is 0; give sigma as a number"
                )
        else:
            widths = torch.full_like(chunk[:, 0], float(sigma), dtype=torch.float64)
        parts.append(lay_out(chunk, widths))
    return Layout.join(parts)


def median_distance(x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows"]:
    """Median of |x_i - x_j| over the d (d - 1) / 2 pairs (the lower one of an even number).

    Found by bisection on the sorted coordinates: d log d a round, never all the pairs.
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
    return (x.gather(-1, reach(above) - 1) - x).amax(-1)  # the distance itself, not its bound


def _chunks(plan: Layout, d: int, n_columns: int) -> Iterator[Int[Tensor, "chunk"]]:
    """Rows of like layout together, as many as the working memory holds."""
    kind = torch.stack([plan.far, plan.order.clamp(min=1).log2().ceil().long()], dim=-1)
    for group in kind.unique(dim=0):
        rows = (kind == group).all(-1).nonzero().squeeze(-1)
        rows = rows[plan.order[rows].argsort()]
        rank = int((plan.order[rows] + plan.far[rows]).max())
        ranking = 4 * d if group[0] else d  # finding far coordinates takes copies of the row
        numbers_a_row = max(ranking, rank * max(4 * rank, n_columns))
        yield from rows.split(rows_at_once(numbers_a_row, rows.device))


def _answer_columns(
    answers: Float[Tensor, "answers d"], plan: Layout, ridge: float | None
) -> Iterator[tuple[Int[Tensor, "some"], Float[Tensor, "columns d"], Int[Tensor, "columns"]]]:
    """Blocks of answers: which, their columns Y = C_y A_y^(1/2) as rows, and whose each one is."""
    every = torch.arange(len(answers), device=answers.device)
    most = max(1, 2**25 // answers.shape[-1])
    block: list[Tensor] = []
    start = 0
    for i in range(len(answers)):
        block.append(_whitened(answers[i : i + 1], plan[every[i : i + 1]], ridge))
        if i + 1 == len(answers) or sum(map(len, block)) >= most:
            sizes = torch.tensor([len(y) for y in block], device=answers.device)
            some = every[start : i + 1]
            yield some, torch.cat(block), torch.repeat_interleave(some - start, sizes)
            block, start = [], i + 1


def _whitened(
    answer: Float[Tensor, "1 d"], layout: Layout, ridge: float | None
) -> Float[Tensor, "columns d"]:
    """Y' with Y Y' = H Ry H (or H Ky H without a ridge)."""
    phi = KernelFeatures.of(answer, layout).expand()[0]
    centred = phi - phi.mean(0)
    strength, directions = torch.linalg.eigh(centred.mT @ centred)
    strength = strength.clamp(min=0)
    weight = torch.ones_like(strength) if ridge is None else 1 / (strength + ridge)
    carried = strength * weight
    kept = carried > NEGLIGIBLE * carried.amax()
    return (directions[:, kept] * weight[kept].sqrt()).mT @ centred.mT
