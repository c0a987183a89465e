"""The mathematics of group-relative policy optimisation (GRPO, arXiv 2402.03300, section 4.1)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def group_advantages(rewards: Float[Tensor, "group sample"]) -> Float[Tensor, "group sample"]:
    """How much better each sample is than the mean of its group, in units of the reward.

    GRPO also divides by the group's standard deviation. Where all samples of a group are right,
    that makes as much of a few tokens' price as of a right answer elsewhere, so it is left out
    here, as in arXiv 2503.20783: the price per token then means what it says.
    """
    return rewards - rewards.mean(1, keepdim=True)


def kl_estimate(
    log_probs: Float[Tensor, "*shape"], start: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """GRPO's estimate of the divergence from the start, from tokens drawn by the model, in nats.

    It is never negative; its mean over the model's tokens is KL(model || start), and the mean of
    its gradient, with the tokens held fixed, is the gradient of KL(start || model) (equation 4).

    Args:
        log_probs: Log-probability of each drawn token by the model.
        start: The same by the model at the start.
    """
    ratio = start - log_probs
    return ratio.exp() - ratio - 1


def policy_loss(
    log_probs: Float[Tensor, "sample pos"],
    drawn: Float[Tensor, "sample pos"],
    start: Float[Tensor, "sample pos"],
    advantages: Float[Tensor, " sample"],
    written: Bool[Tensor, "sample pos"],
    clip: float,
    kl_price: float,
) -> Float[Tensor, ""]:
    """GRPO's loss (equation 3 with its sign changed), summed over tokens.

    The sum is not divided by each sample's length: that would make a wrong answer cheaper the
    longer it is (arXiv 2503.20783).

    Args:
        log_probs: Log-probability of each token by the model as it is.
        drawn: The same by the model that drew the tokens.
        start: The same by the model at the start.
        advantages: Advantage of each sample.
        written: Which positions the model wrote; the others count for nothing.
        clip: A token whose probability has changed by more than this share, in the direction that
            its advantage asks for, has no gradient.
        kl_price: Price of a nat of divergence from the start.
    """
    ratio = (log_probs - drawn).exp()
    gain = advantages[:, None]
    kept = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    loss = kl_price * kl_estimate(log_probs, start) - kept
    return torch.where(written, loss, 0.0).sum()
