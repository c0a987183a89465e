"""Exact low-rank features of the Gaussian kernel between the coordinates of a vector.

Of a vector x in R^d the estimators need the d x d kernel K_ij = k(x_i, x_j) with
k(a, b) = exp(-(a - b)^2 / (2 sigma^2)), and only between two centrings H = I - 11'/d. A kernel of
*scalars* is smooth, so a few nodes carry it. Let most coordinates lie within w sigma of a centre c
(the bulk) and let the others (the far ones) stand for themselves. With nodes z = n Chebyshev points
over the bulk and the far values themselves,

    K = A k(z, z) A',   A_ip = the weight of node p in interpolating at x_i,

up to the interpolation error, which `order_for` keeps below 1e-15. Three things make it accurate:

- k(a, b) is replaced by k(a, b) - k(a, c) - k(c, b) + 1. Both give the same HKH; the second is
  positive definite too, small where the bulk is narrow, and made of expm1, so that a bulk much
  narrower than sigma keeps its relative precision.
- k(z, z) = L L' is factored with a jitter of a few units in the last place. Interpolation weights
  are bounded, so an error in k(z, z) reaches K at its own size: nothing is ever inverted.
- The bulk's weights are Chebyshev polynomials T_k(s) times a constant matrix, and
  2 T_j T_k = T_{j+k} + T_{|j-k|}, so A'A needs only 2n sums of polynomials.

With no bulk (n = 0, every coordinate far) this is the dense kernel itself.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

INTERPOLATION_ERROR = 1e-15
NARROW_ORDER = 24  # up to this many nodes, looking for far coordinates costs more than it saves
MOST_FAR = 256


@dataclass(frozen=True)
class Layout:
    """How each of a batch of vectors is cut into a bulk and far coordinates."""

    sigma: Float[Tensor, "rows"]
    centre: Float[Tensor, "rows"]
    order: Int[Tensor, "rows"]  # Chebyshev nodes of the bulk; 0: no bulk
    far: Int[Tensor, "rows"]  # how many coordinates, farthest first, stand for themselves

    def __getitem__(self, rows: Int[Tensor, "some"]) -> "Layout":
        return Layout(self.sigma[rows], self.centre[rows], self.order[rows], self.far[rows])


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
    order = order_for((high - low) / sigma)
    far = torch.zeros_like(order)

    wide = (order > NARROW_ORDER).nonzero().squeeze(-1)
    if len(wide):
        rows = x[wide].double()
        centre[wide] = rows[:, :: max(1, d // 256)].median(-1).values
        distance = (rows - centre[wide, None]).abs() / sigma[wide, None]
        counts = torch.tensor([0] + [2**i for i in range(9) if 2**i < min(d, MOST_FAR + 1)])
        counts = counts.to(x.device)
        farthest = distance.topk(int(counts[-1]) + 1, dim=-1).values
        orders = order_for(farthest[:, counts])
        best = (orders + counts).argmin(-1, keepdim=True)
        order[wide], far[wide] = orders.gather(-1, best).squeeze(-1), counts[best.squeeze(-1)]

    full = order + far >= d
    return Layout(sigma, centre, order.masked_fill(full, 0), far.masked_fill(full, d))


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
        u = (x - layout.centre[:, None]) / layout.sigma[:, None]
        if n_far == 0:
            far = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
            width, bulk = u.abs().amax(-1, keepdim=True), torch.ones_like(u)
        else:
            distances, ranked = u.abs().topk(min(n_far + 1, x.shape[-1]), dim=-1)
            far, width = ranked[:, :n_far], distances[:, -1:]
            bulk = torch.ones_like(u).scatter_(-1, far, 0.0)
        width = width.clamp(min=1e-12)
        far_values = x.gather(-1, far) / layout.sigma[:, None]
        planes = chebyshev(order, u.div_(width), bulk)
        factor = node_factor(order, width, u_far(x, far, layout), far_values)
        return cls(planes, far, factor)

    def gram(self) -> Float[Tensor, "rows rank rank"]:
        """Phi' H Phi."""
        order, n_rows, d = self.planes.shape
        n_far = self.far.shape[-1]
        weights = self.planes.new_ones(n_rows, order + n_far)
        overlap = torch.diag_embed(weights)
        if order:
            sums = self.planes.sum(-1).mT
            last = (self.planes.transpose(0, 1) @ self.planes[-1][..., None]).squeeze(-1)
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


def u_far(
    x: Float[Tensor, "rows d"], far: Int[Tensor, "rows far"], layout: Layout
) -> Float[Tensor, "rows far"]:
    """Far coordinates' distances from the centre, in sigmas."""
    return (x.gather(-1, far) - layout.centre[:, None]) / layout.sigma[:, None]


def chebyshev(
    order: int, s: Float[Tensor, "rows d"], first: Float[Tensor, "rows d"]
) -> Float[Tensor, "order rows d"]:
    """T_0 = first, T_1 = s first, T_{k+1} = 2 s T_k - T_{k-1}: zero wherever `first` is zero."""
    planes = torch.empty(order, *s.shape, dtype=s.dtype, device=s.device)
    if order:
        planes[0] = first
    if order > 1:
        torch.mul(s, first, out=planes[1])
    # One fused pass a plane: the recurrence runs on signed T_k, signs + - - + + - - +...
    for k in range(2, order):
        torch.mul(s, planes[k - 1], out=planes[k])
        planes[k].mul_(2).sub_(planes[k - 2])
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
    to_centre = torch.expm1(-nodes.square() / 2)
    kernel = torch.expm1(-gaps.square() / 2) - to_centre[:, :, None] - to_centre[:, None]

    scale = (-2 * to_centre).clamp(min=1e-30)
    for part in (scale[:, :order], scale[:, order:]):
        if part.shape[-1]:
            part.copy_(part.amax(-1, keepdim=True).expand_as(part))
    factor = semidefinite_cholesky(kernel, scale)

    to_polynomials = (degree[:, None] * angle).cos() * (2 / max(order, 1))
    to_polynomials[:1] /= 2
    factor[:, :order] = to_polynomials @ factor[:, :order]
    return factor


def semidefinite_cholesky(
    matrix: Float[Tensor, "rows n n"], scale: Float[Tensor, "rows n"]
) -> Float[Tensor, "rows n n"]:
    """Cholesky factor of the matrix plus as few units in the last place of `scale` as it takes."""
    jitter = torch.full_like(scale[:, :1], torch.finfo(scale.dtype).eps)
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(jitter * scale))
        if not failed.any():
            return factor
        jitter = torch.where(failed[:, None] > 0, 4 * jitter, jitter)
        if jitter.amax() > 1e-12:
            raise ArithmeticError("the kernel between nodes is not positive semidefinite")
