"""Exact low-rank features of the Gaussian kernel between the coordinates of a vector.

The estimators need the d x d kernel K_ij = k(x_i, x_j) of a vector x in R^d, with
k(a, b) = exp(-(a - b)^2 / (2 sigma^2)), and they need it only in the product HKH with
H = I - 11'/d. The kernel is a smooth function of *scalars*, so a few nodes represent it. Let most
coordinates (the bulk) lie within w sigma of a centre c. Call the others the far coordinates. The
nodes z are n Chebyshev points over the bulk, and the far values themselves. Then

    K = A k(z, z) A',   A_ip = the weight of node p in the interpolation at x_i,

up to the interpolation error, which `order_for` keeps near 1e-15. Three ideas make this accurate
and fast:

- k(a, b) is replaced by k(a, b) - k(a, c) - k(c, b) + 1, which gives the same HKH. This function
  is positive definite too. It is small if the bulk is narrow, and it can be computed without
  cancellation. So a bulk much narrower than sigma keeps its relative precision.
- k(z, z) = L L' is factored with a jitter of a few units in the last place. The interpolation
  weights are bounded and nothing is inverted, so an error in k(z, z) does not grow on its way to K.
- The bulk's weights are Chebyshev polynomials T_k(s) times a constant matrix, and
  2 T_j T_k = T_{j+k} + T_{|j-k|}, so A'A needs only 2n sums of polynomials.

Without a bulk (n = 0, every coordinate is far) this is the dense kernel itself.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

INTERPOLATION_ERROR = 1e-14  # Bound in `order_for`. The true error is at least ten times smaller.
# Working memory, as a number of float64 values. On a CPU it is 8 MB, which stays in cache and lets
# the allocator reuse its pages. On other devices it is 512 MB, which keeps the device busy.
WORKSPACE = {"cpu": 2**20}
NARROW_ORDER = 24  # With this many nodes or fewer, far coordinates would cost more than they save.


@dataclass(frozen=True)
class Layout:
    """The division of each vector of a batch into a bulk and far coordinates."""

    sigma: Float[Tensor, "rows"]
    centre: Float[Tensor, "rows"]
    width: Float[Tensor, "rows"]  # Half the width of the bulk, in sigmas.
    order: Int[Tensor, "rows"]  # Number of Chebyshev nodes of the bulk. 0 means no bulk.
    far: Int[Tensor, "rows"]  # Number of far coordinates, which are the farthest from the centre.

    def __getitem__(self, rows: Int[Tensor, "chosen"]) -> "Layout":
        return Layout(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def join(parts: "list[Layout]") -> "Layout":
        """A single layout with the rows of all parts."""
        names = [field.name for field in fields(Layout)]
        return Layout(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def order_for(half_width: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Number of Chebyshev nodes for the kernel over a bulk of this half-width, in sigmas.

    The kernel is an entire function, and it is at most exp(y^2 / 2) where the imaginary part is y.
    The error of interpolation in n points is at most 4 exp(y^2 / 2) rho^(1-n) / (rho - 1), where
    rho belongs to the Bernstein ellipse of height y.
    """
    width = half_width.clamp(1e-12, 1e6)
    height = torch.arange(1.0, 20.0, 0.5, dtype=width.dtype, device=width.device)
    slope = height / width[..., None]
    rho_minus_1 = slope + slope.square() / (1 + (1 + slope.square()).sqrt())
    # Below a hundredth of a sigma the kernel varies by less than 1e-4. The error must shrink with
    # this variation.
    log_error = math.log(INTERPOLATION_ERROR / 4) + 2 * (100 * width).clamp(max=1).log()
    needed = height.square() / 2 - rho_minus_1.log() - log_error[..., None]
    return (1 + needed / rho_minus_1.log1p()).amin(-1).ceil().long()


def lay_out(x: Float[Tensor, "rows d"], sigma: Float[Tensor, "rows"]) -> Layout:
    """The bulk and the far coordinates of each row. Every choice is exact; this choice is fast."""
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
        distance = rows.sub_(centre[wide, None]).abs_().div_(sigma[wide, None])
        candidates = [0] + [2**i for i in range(9) if 2**i < d]
        counts = torch.tensor(candidates, device=x.device)
        widths = distance.topk(candidates[-1] + 1, dim=-1).values[:, counts]
        orders = order_for(widths)
        best = (orders + counts).argmin(-1, keepdim=True)
        far[wide] = counts[best.squeeze(-1)]
        width[wide], order[wide] = (of.gather(-1, best).squeeze(-1) for of in (widths, orders))

    full = order + far >= d
    width = width.clamp(min=1e-12)
    return Layout(sigma, centre, width, order.masked_fill(full, 0), far.masked_fill(full, d))


@dataclass(frozen=True)
class KernelFeatures:
    """Features Phi = A L of a batch of vectors, with H Phi Phi' H = H K H."""

    x: Float[Tensor, "rows d"]
    layout: Layout
    order: int
    far: Int[Tensor, "rows far"]  # Indices of the far coordinates.
    # L. Its rows belong to the bulk's T_k, then to the far coordinates.
    factor: Float[Tensor, "rows rank rank"]

    @classmethod
    def of(cls, x: Float[Tensor, "rows d"], layout: Layout) -> "KernelFeatures":
        """Features of vectors with equal numbers of far coordinates. All get the largest order."""
        order, n_far = torch.stack([layout.order.max(), layout.far.max()]).tolist()
        far = torch.empty(len(x), n_far, dtype=torch.long, device=x.device)
        if n_far:
            far = (x - layout.centre[:, None]).abs_().topk(n_far, dim=-1).indices
        values = x.gather(-1, far).double()
        beyond = (values - layout.centre[:, None]) / layout.sigma[:, None]
        # Subtracted before they are divided: far from zero, only the difference itself is exact.
        apart = (values[:, :, None] - values[:, None]) / layout.sigma[:, None, None]
        factor = node_factor(order, layout.width, beyond, apart)
        return cls(x, layout, order, far, factor)

    def gram_and_products(
        self, columns: Float[Tensor, "columns d"]
    ) -> tuple[Float[Tensor, "rows rank rank"], Float[Tensor, "rows rank columns"]]:
        """Phi' H Phi and Phi' Y in a single pass over x. The columns of Y are given as rows."""
        d = self.x.shape[-1]
        weights = self.factor.new_ones(self.factor.shape[:2])
        overlap = torch.diag_embed(weights)
        products = columns.mT[self.far]
        if self.order:
            sums, last, bulk = self._bulk_sums(columns)
            # 2 T_{n-1} T_k = T_{n-1+k} + T_{n-1-k} gives the sums of the degrees n to 2n - 2.
            moments = torch.cat([sums, 2 * last[:, 1:] - sums.flip(-1)[:, 1:]], dim=-1)
            k = torch.arange(self.order, device=sums.device)
            overlap[:, : self.order, : self.order] = (
                moments[:, k[:, None] + k] + moments[:, (k[:, None] - k).abs()]
            ) / 2
            weights[:, : self.order] = sums
            products = torch.cat([bulk, products], dim=1)
        overlap -= weights[:, :, None] * weights[:, None] / d
        return self.factor.mT @ overlap @ self.factor, self.factor.mT @ products

    def expand(self) -> Float[Tensor, "rows d rank"]:
        """Phi itself."""
        phi = torch.cat([planes.permute(1, 2, 0) for planes in self._planes()])
        phi = phi @ (signs(self.order, phi)[:, None] * self.factor[:, : self.order])
        index = self.far[..., None].expand(-1, -1, phi.shape[-1])
        return phi.scatter(1, index, self.factor[:, self.order :])

    def _bulk_sums(
        self, columns: Float[Tensor, "columns d"]
    ) -> tuple[
        Float[Tensor, "rows order"],
        Float[Tensor, "rows order"],
        Float[Tensor, "rows order columns"],
    ]:
        """The sums over the bulk of T_k, of T_{n-1} T_k and of T_k Y, for every k."""
        with_ones = torch.cat([columns, torch.ones_like(self.x[:1], dtype=columns.dtype)])
        last, products = [], []
        for planes in self._planes():
            last.append((planes[-1][:, None] @ planes.permute(1, 2, 0)).squeeze(1))
            flat = with_ones @ planes.reshape(-1, planes.shape[-1]).mT
            products.append(flat.reshape(-1, *planes.shape[:2]).permute(2, 1, 0))
        sign = signs(self.order, self.factor)
        summed = torch.cat(products) * sign[:, None]
        return summed[..., -1], torch.cat(last) * sign * sign[-1], summed[..., :-1]

    def _planes(self) -> Iterator[Float[Tensor, "order block d"]]:
        """Signed T_k at the bulk's coordinates and 0 at the far ones, block of rows by block.

        Each block overwrites the memory of the block before. With signs + + - - the recurrence is
        P_k = P_{k-2} +- 2 s P_{k-1}, which takes a single pass over memory.
        """
        n_rows, d = self.x.shape
        size = rows_at_once(max(self.order, 1) * d, self.x.device)
        buffer = self.factor.new_empty(self.order * min(size, n_rows) * d)
        unit = (self.layout.sigma * self.layout.width)[:, None]
        for first in range(0, n_rows, size):
            block = slice(first, first + size)
            x = self.x[block]
            planes = buffer[: self.order * x.numel()].view(self.order, *x.shape)
            if self.order:  # A bulk has at least 2 nodes.
                torch.sub(x, self.layout.centre[block, None], out=planes[1]).div_(unit[block])
                planes[0] = 1
                planes[:2].scatter_(-1, self.far[block].expand(2, -1, -1), 0.0)
            for k in range(2, self.order):
                sign = 2 if k % 2 else -2
                torch.addcmul(planes[k - 2], planes[1], planes[k - 1], value=sign, out=planes[k])
            yield planes


def signs(order: int, like: Tensor) -> Float[Tensor, "order"]:
    """The signs + + - - + + - - ..., one per degree of T_k."""
    k = torch.arange(order, device=like.device)
    return (1 - 2 * (k % 4 // 2)).to(like.dtype)


def rows_at_once(numbers_per_row: int, device: torch.device) -> int:
    """The number of rows that fit the workspace, at least 1."""
    return max(1, WORKSPACE.get(device.type, 2**26) // numbers_per_row)


def node_factor(
    order: int,
    width: Float[Tensor, "rows"],
    far: Float[Tensor, "rows far"],
    apart: Float[Tensor, "rows far far"],
) -> Float[Tensor, "rows rank rank"]:
    """The factor L, where L L' is the kernel between nodes.

    The rows of the bulk are then transformed from nodes to Chebyshev polynomials.

    Args:
        order: Number of nodes of the bulk.
        width: Half the width of each row's bulk, in sigmas.
        far: The far coordinates' distances from the centre, in sigmas.
        apart: Their differences from each other, in sigmas.
    """
    degree = torch.arange(order, dtype=far.dtype, device=far.device)
    angle = (degree + 0.5) * (math.pi / max(order, 1))
    nodes = torch.cat([width[:, None] * angle.cos(), far], dim=-1)
    gaps = nodes[:, :, None] - nodes[:, None]
    # Far coordinates may lie close together. Only their own differences are exact.
    gaps[:, order:, order:] = apart
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
    """Cholesky factor, with the diagonal raised by as few units in the last place as necessary."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30)
    likely = matrix.shape[-1] / 2 * torch.finfo(matrix.dtype).eps
    jitter = torch.full_like(diagonal[:, :1], likely)
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(jitter * diagonal))
        if not failed.any():
            return factor
        jitter = torch.where(failed[:, None] > 0, 4 * jitter, jitter)
        if jitter.amax() > 1e3 * likely:
            raise ArithmeticError("the kernel between nodes is not positive semidefinite")
