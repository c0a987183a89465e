"""Channels of known mutual information, and the bias of estimates from few problems.

A channel draws labels y and states h. Their mutual information is known from numerical integration
or from a sum over a table. `bias_study` measures estimated minus true bits over repeated draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import norm, t
from torch import Tensor

from mi_lens.information.across_problems.probe import usable_information

Draw = Callable[[int, np.random.Generator], tuple[Tensor, Int[np.ndarray, "row"]]]


@dataclass(frozen=True)
class Channel:
    """Labels and states of known mutual information.

    Attributes:
        name: A description of the channel.
        bits: I(y; h) in bits.
        draw: A function that draws n rows: states of shape (n, d), and labels of shape (n,).
    """

    name: str
    bits: float
    draw: Draw


def binary_channel(amplitude: float, dimensions: int = 1) -> Channel:
    """A random sign times an amplitude, plus unit Gaussian noise. Further coordinates are noise.

    Both signs are equally likely. A logistic probe can be exact here, because the log odds of y are
    linear in h.
    """
    z, weight = _gauss()

    def draw(n: int, rng: np.random.Generator) -> tuple[Tensor, Int[np.ndarray, "row"]]:
        y = rng.integers(2, size=n)
        h = rng.standard_normal((n, dimensions))
        h[:, 0] += amplitude * (2 * y - 1)
        return torch.from_numpy(h), y

    missing = np.log1p(np.exp(-2 * amplitude * (amplitude + z))) / np.log(2)
    return Channel(
        f"sign x {amplitude:g} + noise, d={dimensions}", float(1 - weight @ missing), draw
    )


def quantile_channel(classes: int, correlation: float, dimensions: int = 1) -> Channel:
    """A Gaussian in `classes` equally likely parts. The state is a Gaussian correlated with it.

    The label is the part in which the first Gaussian lies. Log odds of the labels are nearly but
    not exactly linear in h, because the middle parts are bounded on both sides.
    """
    z, weight = _gauss()
    edges = norm.ppf(np.arange(1, classes) / classes)
    spread = np.sqrt(1 - correlation**2)

    def draw(n: int, rng: np.random.Generator) -> tuple[Tensor, Int[np.ndarray, "row"]]:
        x = rng.standard_normal(n)
        h = rng.standard_normal((n, dimensions))
        h[:, 0] = correlation * x + spread * h[:, 0]
        return torch.from_numpy(h), np.searchsorted(edges, x)

    below = norm.cdf((edges - correlation * z[:, None]) / spread)
    posterior = np.diff(below, axis=1, prepend=0.0, append=1.0)
    bits = np.log2(classes) - weight @ _entropy(posterior)
    name = f"{classes} parts of a Gaussian, r={correlation:g}, d={dimensions}"
    return Channel(name, float(bits), draw)


def table_channel(joint: Float[np.ndarray, "y h"]) -> Channel:
    """A discrete state as a one-hot vector. The table holds the joint probabilities of y and h."""

    def draw(n: int, rng: np.random.Generator) -> tuple[Tensor, Int[np.ndarray, "row"]]:
        y, h = np.divmod(rng.choice(joint.size, size=n, p=joint.ravel()), joint.shape[1])
        return torch.eye(joint.shape[1], dtype=torch.float64)[torch.from_numpy(h)], y

    marginals = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    name = f"table of {joint.shape[0]} labels x {joint.shape[1]} states"
    return Channel(name, float(marginals - _entropy(joint.ravel())), draw)


def exclusive_or_channel() -> Channel:
    """Whether two random signs differ. This is one bit, and a linear probe reads none of it."""

    def draw(n: int, rng: np.random.Generator) -> tuple[Tensor, Int[np.ndarray, "row"]]:
        signs = rng.integers(2, size=(n, 2))
        return torch.from_numpy(2.0 * signs - 1), signs[:, 0] ^ signs[:, 1]

    return Channel("exclusive or of two signs", 1.0, draw)


def _gauss() -> tuple[Float[np.ndarray, "node"], Float[np.ndarray, "node"]]:
    """Nodes and weights that integrate over a standard Gaussian."""
    z = np.linspace(-10, 10, 8001)
    weight = norm.pdf(z)
    return z, weight / weight.sum()


def _entropy(p: Float[np.ndarray, "*batch outcome"]) -> Float[np.ndarray, "*batch"]:
    p = np.clip(p, 1e-300, 1.0)
    return np.asarray(-(p * np.log2(p)).sum(-1))


@dataclass(frozen=True)
class Bias:
    """Estimated minus true bits for a number of problems.

    Attributes:
        channel: The channel's name.
        truth: The channel's mutual information in bits.
        problems: Number of rows drawn per repeat.
        bias: Mean of estimated minus true bits over repeats.
        low: Lower end of the bias's 95 % confidence interval.
        high: Upper end of the same interval.
        spread: Standard deviation of the estimates.
        coverage: Share of the estimates' own 95 % intervals that contain the truth.
    """

    channel: str
    truth: float
    problems: int
    bias: float
    low: float
    high: float
    spread: float
    coverage: float


def bias_study(
    channels: Sequence[Channel], sizes: Sequence[int], *, repeats: int = 40, seed: int = 0
) -> list[Bias]:
    """Bias of usable information for each channel and each number of problems.

    Args:
        channels: The channels.
        sizes: Numbers of problems.
        repeats: Number of estimates per channel and number of problems.
        seed: Seed of the draws.

    Raises:
        ValueError: If there are fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"repeats={repeats}: expected at least 2, because a spread needs two")
    return [_bias(channel, size, repeats, seed) for channel in channels for size in sizes]


def _bias(channel: Channel, size: int, repeats: int, seed: int) -> Bias:
    errors, covered = [], []
    for repeat in range(repeats):
        states, labels = channel.draw(size, np.random.default_rng([seed, size, repeat]))
        estimate = usable_information(states, labels, shuffles=0, seed=repeat)
        errors.append(estimate.bits - channel.bits)
        covered.append(estimate.interval[0] <= channel.bits <= estimate.interval[1])
    mean, spread = float(np.mean(errors)), float(np.std(errors, ddof=1))
    half = float(t.ppf(0.975, repeats - 1)) * spread / repeats**0.5
    return Bias(
        channel=channel.name,
        truth=channel.bits,
        problems=size,
        bias=mean,
        low=mean - half,
        high=mean + half,
        spread=spread,
        coverage=float(np.mean(covered)),
    )
