import pytest
import torch
from torch import nn

from mi_lens.models.backends.fused import LARGE, Joint, linear


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.W_Q = nn.Parameter(torch.randn(4, 6, 3, dtype=torch.float64))
        self.W_K = nn.Parameter(torch.randn(2, 6, 3, dtype=torch.float64))
        self.b_Q = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        self.b_K = nn.Parameter(torch.randn(2, 3, dtype=torch.float64))

    def products(self, x):
        q = torch.einsum("bd,hdk->bhk", x, self.W_Q) + self.b_Q
        k = torch.einsum("bd,hdk->bhk", x, self.W_K) + self.b_K
        return torch.cat([q, k], dim=1).flatten(1)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Weights().requires_grad_(False)


def test_one_product_gives_all_and_parameters_keep_their_values(module):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(5, 6, dtype=torch.float64)
    expected = module.products(x)
    joint = Joint(module, ("W_Q", "W_K"), ("b_Q", "b_K"))
    torch.testing.assert_close(joint.product(x), expected, rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_is_written_into_a_parameter_counts(module):
    joint = Joint(module, ("W_Q", "W_K"), ("b_Q", "b_K"))
    module.W_K[1] = 0.0
    module.b_Q.data.mul_(2)
    x = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(joint.product(x), module.products(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("change", ["replaced", "other data", "trained", "moved", "removed"])
def test_a_parameter_that_is_no_view_any_more_ends_it(module, change):
    joint = Joint(module, ("W_Q", "W_K"), ("b_Q", "b_K"))
    if change == "replaced":
        module.W_K = nn.Parameter(module.W_K.clone(), requires_grad=False)
    elif change == "other data":
        module.W_K.data = module.W_K.data.clone()
    elif change == "trained":
        module.b_K.requires_grad_(True)
    elif change == "moved":
        module.to(torch.float32)
    else:
        del module.W_K
    assert joint.product(torch.randn(5, 6, dtype=torch.float64)) is None


@pytest.mark.parametrize("rows", [1, 6, 8, 32, 33])
@pytest.mark.parametrize("with_bias", [False, True])
def test_few_rows_are_multiplied_as_many_are(rows, with_bias):
    weight = torch.randn(LARGE // 64, 64, dtype=torch.float64)
    bias = torch.randn(len(weight), dtype=torch.float64) if with_bias else None
    x = torch.randn(rows, 1, 64, dtype=torch.float64)
    expected = torch.einsum("rpi,oi->rpo", x, weight) + (0 if bias is None else bias)
    product = linear(x, weight, bias)
    assert product.is_contiguous()
    torch.testing.assert_close(product, expected, rtol=0, atol=1e-12)
