"""Weight matrices that multiply the same input, as one matrix, of which the parameters are views.

One product takes the place of several. What is written into a parameter is written into the joint
matrix too; a parameter that was replaced, moved or is trained makes the joint matrix invalid.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Joint:
    """Some weights of a module, and their biases, joined in one storage.

    Args:
        module: A module of TransformerLens.
        weights: Names of parameters `[*heads, d_in, d_out]`, which get views of the joint matrix.
        biases: Names of the parameters `[*heads, d_out]` that belong to them; empty if there are
            none.
    """

    def __init__(self, module: Any, weights: Sequence[str], biases: Sequence[str] = ()):
        self._parameters, self._names = module._parameters, (*weights, *biases)
        rows = [self._parameters[name].data.transpose(-2, -1) for name in weights]
        self.weight: Float[Tensor, "d_out d_in"] = torch.cat([row.flatten(0, -2) for row in rows])
        offsets = [self._parameters[name].data.flatten() for name in biases]
        self.bias: Float[Tensor, " d_out"] | None = torch.cat(offsets) if biases else None
        first = 0
        for index, name in enumerate(weights):
            part = self.weight[first : first + rows[index].flatten(0, -2).shape[0]]
            self._replace(name, part.view(rows[index].shape).transpose(-2, -1))
            if self.bias is not None:
                old = self._parameters[biases[index]]
                self._replace(biases[index], self.bias[first : first + len(part)].view(old.shape))
            first += len(part)
        self._addresses = [self._parameters[name].data_ptr() for name in self._names]

    def _replace(self, name: str, view: Tensor) -> None:
        self._parameters[name] = nn.Parameter(view, requires_grad=False)

    def product(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"] | None:
        """All products, one behind the other; None if a parameter is no view any more."""
        for name, address in zip(self._names, self._addresses, strict=True):
            parameter = self._parameters.get(name)
            if parameter is None or parameter.data_ptr() != address or parameter.requires_grad:
                return None
        return linear(x, self.weight, self.bias)


# On a CPU, PyTorch's product of few rows with a large matrix takes up to 1.6 times as long as that
# of the matrix with the rows as columns (`python -m experiments.timings.few_rows`).
FEW_ROWS, LARGE = range(6, 33), 2**19


def linear(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_out d_in"],
    bias: Float[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "*batch d_out"]:
    """Torch's `linear`, in the order that is faster here."""
    rows = x.numel() // x.shape[-1]
    if x.device.type != "cpu" or rows not in FEW_ROWS or weight.numel() < LARGE:
        return functional.linear(x, weight, bias)
    columns = weight @ x.reshape(rows, -1).T
    product = columns.T.contiguous().view(*x.shape[:-1], -1)
    return product if bias is None else product + bias
