"""Exact low-rank features of the Gaussian kernel between the coordinates of a vector.

Of a vector x in R^d the estimators need the d x d kernel K_ij = k(x_i, x_j) with
k(a, b) = exp(-(a - b)^2 / (2 sigma^2)), and only between two centrings H = I - 11'/d. A kernel of
*scalars* is smooth, so a few nodes carry it. Let most coordinates lie within w sigma of a centre c
(the bulk) and let the others (the far ones) stand for themselves. With nodes z = n Chebyshev points
over the bulk and the far values themselves,

    K = A k(z, z) A',   A_ip = the weight of node p in interpolating at x_i,

up to the interpolation error, which `order_for` keeps below 1e-15. Three things make it accurate:

- k(a, b) is replaced by k(a, b) - k(a, c) - k(c, b) + 1. Both give the same HKH; the second is
  positive definite too, small where the bulk is narrow, and has a form without cancellation, so
  that a bulk much narrower than sigma keeps its relative precision.
- k(z, z) = L L' is factored with a jitter of a few units in the last place. Interpolation weights
  are bounded, so an error in k(z, z) reaches K at its own size: nothing is ever inverted.
- The bulk's weights are Chebyshev polynomials T_k(s) times a constant matrix, and
  2 T_j T_k = T_{j+k} + T_{|j-k|}, so A'A needs only 2n sums of polynomials.

With no bulk (n = 0, every coordinate far) this is the dense kernel itself.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

INTERPOLATION_ERROR = 1e-15
NARROW_ORDER = 24  # up to this many nodes, looking for far coordinates costs more than it saves


@dataclass(frozen=True)
class Layout:
    """How each of a batch of vectors is cut into a bulk and far coordinates."""

    sigma: Float[Tensor, "rows"]
    centre: Float[Tensor, "rows"]
    width: Float[Tensor, "rows"]  # half the bulk's, in sigmas
    order: Int[Tensor, "rows"]  # Chebyshev nodes of the bulk; 0: no bulk
    far: Int[Tensor, "rows"]  # how many coordinates, farthest first, stand for themselves

    def __getitem__(self, rows: Int[Tensor, "some"]) -> "Layout":
        return Layout(*(getattr(self, field.name)[rows] for field in fields(self)))


def order_for(half_width: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Chebyshev nodes that interpolate the kernel over a bulk of this half-width, in sigmas.

    The kernel is entire and at most exp(y^2 / 2) where the imaginary part is y; interpolation in n
    points errs by 4 exp(y^2 / 2) rho^(1-n) / (rho - 1) for the Bernstein ellipse of that height.
    """
    width = half_width.clamp(1e-12, 1e6)
    height = torch.arange(1.0, 20.0, 0.5, dtype=width.dtype, device=width.device)
    slope = height / width[..., None]
    rho_minus_1 = slope + slope.square() / (1 + (1 + slope.square()).sqrt())
    log_error = math.log(INTERPOLATION_ERROR / 4) + 2 * width.clamp(max=1).log()
    needed = height.square() / 2 - rho_minus_1.log() - log_error[..., None]
    return (1 + needed / rho_minus_1.log1p()).amin(-1).ceil().long()


def lay_out(x: Float[Tensor, "rows d"], sigma: Float[Tensor, "rows"]) -> Layout:
    """Choose each row's bulk and far coordinates. Every choice is exact; this one is cheap."""
    d = x.shape[-1]
    low, high = x.amin(-1).double() / 2, x.amax(-1).double() / 2
    centre = low + high
    width = (high - low) / sigma
    order = order_for(width)
    far = torch.zeros_like(order)

    wide = (order > NARROW_ORDER).nonzero().squeeze(-1)
    if len(wide):
        rows = x[wide].double()
        centre[wide] = rows[:, :: max(1, d // 256)].median(-1).values
        distance = (rows - centre[wide, None]).abs() / sigma[wide, None]
        candidates = [0] + [2**i for i in range(9) if 2**i < d]
        counts = torch.tensor(candidates, device=x.device)
        widths = distance.topk(candidates[-1] + 1, dim=-1).values[:, counts]
        orders = order_for(widths)
        best = (orders + counts).argmin(-1, keepdim=True)
        far[wide] = counts[best.squeeze(-1)]
        width[wide], order[wide] = (of.gather(-1, best).squeeze(-1) for of in (widths, orders))

    full = order + far >= d
    return Layout(sigma, centre, width, order.masked_fill(full, 0), far.masked_fill(full, d))


@dataclass(frozen=True)
class KernelFeatures:
    """Features Phi = A L of a batch of vectors: H Phi Phi' H = H K H. A is kept in two parts."""

    planes: Float[Tensor, "order rows d"]  # T_k at the bulk's coordinates, 0 at the far ones
    far: Int[Tensor, "rows far"]  # which coordinates are far
    factor: Float[Tensor, "rows rank rank"]  # L, in terms of planes and far coordinates

    @classmethod
    def of(cls, x: Float[Tensor, "rows d"], layout: Layout) -> "KernelFeatures":
        """Features of vectors that share one far count; the largest order serves all."""
        order, n_far = int(layout.order.max()), int(layout.far.max())
        x = x.double()
        u = x.sub(layout.centre[:, None]).div_(layout.sigma[:, None])
        width = layout.width[:, None].clamp(min=1e-12)
        if n_far:
            far = u.abs().topk(n_far, dim=-1).indices
            bulk = torch.ones_like(u).scatter_(-1, far, 0.0)
        else:
            far, bulk = u.new_empty(len(x), 0, dtype=torch.long), u.new_ones(())
        nodes_beyond = u.gather(-1, far)
        values_beyond = x.gather(-1, far) / layout.sigma[:, None]
        factor = node_factor(order, width, nodes_beyond, values_beyond)
        planes = chebyshev(order, u.div_(width), bulk)
        return cls(planes, far, factor)

    def gram(self) -> Float[Tensor, "rows rank rank"]:
        """Phi' H Phi."""
        order, n_rows, d = self.planes.shape
        n_far = self.far.shape[-1]
        weights = self.planes.new_ones(n_rows, order + n_far)
        overlap = torch.diag_embed(weights)
        if order:
            sums = self.planes.sum(-1).mT
            last = (self.planes[-1][:, None] @ self.planes.permute(1, 2, 0)).squeeze(1)
            moments = torch.cat([sums, 2 * last[:, 1:] - sums.flip(-1)[:, 1:]], dim=-1)
            k = torch.arange(order, device=sums.device)
            bulk = moments[:, k[:, None] + k] + moments[:, (k[:, None] - k).abs()]
            overlap[:, :order, :order] = bulk / 2
            weights[:, :order] = sums
        overlap -= weights[:, :, None] * weights[:, None] / d
        return self.factor.mT @ overlap @ self.factor

    def project(self, columns: Float[Tensor, "columns d"]) -> Float[Tensor, "rows rank columns"]:
        """Phi' Y, the columns of Y given as rows."""
        order, n_rows, d = self.planes.shape
        bulk = columns @ self.planes.reshape(order * n_rows, d).mT
        bulk = bulk.reshape(len(columns), order, n_rows).permute(2, 1, 0)
        far = columns.mT[self.far]
        return self.factor.mT @ torch.cat([bulk, far], dim=1)

    def expand(self) -> Float[Tensor, "rows d rank"]:
        """Phi itself."""
        order = len(self.planes)
        phi = self.planes.permute(1, 2, 0) @ self.factor[:, :order]
        index = self.far[..., None].expand(-1, -1, phi.shape[-1])
        return phi.scatter(1, index, self.factor[:, order:])


def chebyshev(
    order: int, s: Float[Tensor, "rows d"], first: Float[Tensor, "*rows_d"]
) -> Float[Tensor, "order rows d"]:
    """T_0 = first, T_1 = s first, T_{k+1} = 2 s T_k - T_{k-1}: zero wherever `first` is zero."""
    planes = s.new_empty(order, *s.shape)
    if order:
        planes[0] = first
    if order > 1:
        torch.mul(s, first, out=planes[1])
    twice = 2 * s
    for k in range(2, order):
        torch.mul(twice, planes[k - 1], out=planes[k]).sub_(planes[k - 2])
    return planes


def node_factor(
    order: int,
    width: Float[Tensor, "rows 1"],
    far: Float[Tensor, "rows far"],
    far_values: Float[Tensor, "rows far"],
) -> Float[Tensor, "rows rank rank"]:
    """L with L L' = the kernel between nodes, its bulk rows turned from nodes to polynomials."""
    degree = torch.arange(order, dtype=far.dtype, device=far.device)
    angle = (degree + 0.5) * (math.pi / max(order, 1))
    nodes = torch.cat([width * angle.cos(), far], dim=-1)
    gaps = nodes[:, :, None] - nodes[:, None]
    # Far values may be large and close together: their own differences are the exact ones.
    gaps[:, order:, order:] = far_values[:, :, None] - far_values[:, None]
    # k(a, b) - k(a, 0) - k(0, b) + 1 = (1 - k_a)(1 - k_b) + k_a k_b (exp(ab) - 1).
    lost = torch.expm1(-nodes.square() / 2)
    kept = 1 + lost
    outer = kept[:, :, None] * kept[:, None]
    product = nodes[:, :, None] * nodes[:, None]
    near = outer * torch.expm1(product)
    kernel = torch.where(product < 1, near, torch.exp(-gaps.square() / 2) - outer)
    factor = semidefinite_cholesky(kernel + lost[:, :, None] * lost[:, None])

    to_polynomials = (degree[:, None] * angle).cos() * (2 / max(order, 1))
    to_polynomials[:1] /= 2
    factor[:, :order] = to_polynomials @ factor[:, :order]
    return factor


def semidefinite_cholesky(matrix: Float[Tensor, "rows n n"]) -> Float[Tensor, "rows n n"]:
    """Cholesky factor with the diagonal raised by as few units in its last place as it takes."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30)
    jitter = torch.full_like(diagonal[:, :1], torch.finfo(matrix.dtype).eps)
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(jitter * diagonal))
        if not failed.any():
            return factor
        jitter = torch.where(failed[:, None] > 0, 4 * jitter, jitter)
        if jitter.amax() > 1e-12:
            raise ArithmeticError("the kernel between nodes is not positive semidefinite")
