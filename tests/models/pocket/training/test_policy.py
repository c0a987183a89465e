"""The loss of reinforcement against evaluations of its own formulas, one number at a time."""

import math

import pytest
import torch
from torch.func import grad

from mi_lens.models.pocket.training.policy import group_advantages, kl_estimate, policy_loss


def test_an_advantage_is_the_distance_from_the_group_mean() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5], [0.9, 0.9, 0.9]])
    expected = [[r - sum(row) / 3 for r in row] for row in rewards.tolist()]
    torch.testing.assert_close(group_advantages(rewards), torch.tensor(expected))


def loss_by_hand(new, drawn, start, advantages, written, clip, price) -> float:
    total = 0.0
    for i, row in enumerate(written):
        for t, counted in enumerate(row):
            if counted:
                ratio = math.exp(new[i][t] - drawn[i][t])
                clipped = min(max(ratio, 1 - clip), 1 + clip)
                gain = min(ratio * advantages[i], clipped * advantages[i])
                other = math.exp(start[i][t] - new[i][t])
                total -= gain - price * (other - math.log(other) - 1)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_equation_3(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    new, drawn, start = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64).mul(0.4)
    advantages = torch.randn(4, generator=generator, dtype=torch.float64)
    written = torch.rand(4, 6, generator=generator) < 0.7
    arguments = new, drawn, start, advantages, written
    numbers = (a.tolist() for a in arguments)
    expected = loss_by_hand(*numbers, clip=0.2, price=0.05)
    assert float(policy_loss(*arguments, 0.2, 0.05)) == pytest.approx(expected)


def test_positions_that_the_model_did_not_write_count_for_nothing() -> None:
    new = torch.tensor([[-1.0, math.inf, -2.0]], requires_grad=True)
    written = torch.tensor([[True, False, True]])
    loss = policy_loss(
        new, new.detach(), torch.zeros(1, 3), torch.ones(1), written, clip=0.2, kl_price=0.0
    )
    (slopes,) = torch.autograd.grad(loss, new)
    assert slopes[0, 0] == slopes[0, 2] == -1
    assert math.isfinite(loss.item())


def test_a_token_that_has_moved_far_enough_has_no_gradient() -> None:
    drawn = torch.zeros(4, 1)
    new = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss = policy_loss(new, drawn, new.detach(), advantages, torch.ones(4, 1).bool(), 0.2, 0.0)
    (slopes,) = torch.autograd.grad(loss, new)
    assert slopes[0] == slopes[3] == 0
    assert slopes[1] > 0 > slopes[2]


def expected_over_draws(logits, start, function):
    """The mean of a function of each token's two log-probabilities over the model's own draws."""
    model, start = logits.log_softmax(0), start.log_softmax(0)
    return (model.detach().exp() * function(model, start)).sum()


def test_the_estimate_of_kl_has_the_mean_and_the_gradient_that_it_claims() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, start = torch.randn(2, 7, generator=generator, dtype=torch.float64)

    def divergence(p, q):
        return (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum()

    mean = expected_over_draws(logits, start, kl_estimate)
    torch.testing.assert_close(mean, divergence(logits, start))
    slope = grad(lambda x: expected_over_draws(x, start, kl_estimate))(logits)
    torch.testing.assert_close(slope, grad(lambda x: divergence(start, x))(logits))


def test_on_policy_the_gradient_is_that_of_the_expected_advantage() -> None:
    """Over all tokens of a toy vocabulary, at the policy that drew them."""
    generator = torch.Generator().manual_seed(2)
    logits, worth = torch.randn(2, 6, generator=generator, dtype=torch.float64)

    def expected_loss(x):
        model = x.log_softmax(0)
        return sum(
            model.detach().exp()[i]
            * policy_loss(
                model[i].view(1, 1),
                model.detach()[i].view(1, 1),
                model.detach()[i].view(1, 1),
                worth[i].view(1),
                torch.ones(1, 1).bool(),
                0.2,
                0.0,
            )
            for i in range(6)
        )

    slope = grad(expected_loss)(logits)
    torch.testing.assert_close(slope, -grad(lambda x: (x.softmax(0) * worth).sum())(logits))
