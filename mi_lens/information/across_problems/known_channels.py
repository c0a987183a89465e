"""Channels of known information, and how far estimates of it lie off at small numbers of problems.

A channel draws labels y and states h whose mutual information is known, by numerical integration
or by summing over a table. `bias_study` measures estimated minus true bits over repeated draws.
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
        name: What it is.
        bits: I(y; h).
        draw: Draws n rows of states, [n, d], and their labels, [n].
    """

    name: str
    bits: float
    draw: Draw


def binary_channel(amplitude: float, dimensions: int = 1) -> Channel:
    """A fair sign times an amplitude, plus unit Gaussian noise; further coordinates are noise.

    A logistic probe can be exact here: the log odds of y are linear in h.
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
    """Which of `classes` equal parts a Gaussian lies in, seen through a Gaussian correlated to it.

    Middle classes have no side of their own, and log odds are nearly but not exactly linear in h.
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
    """A discrete state, as a one-hot vector, with a table of joint probabilities."""

    def draw(n: int, rng: np.random.Generator) -> tuple[Tensor, Int[np.ndarray, "row"]]:
        y, h = np.divmod(rng.choice(joint.size, size=n, p=joint.ravel()), joint.shape[1])
        return torch.eye(joint.shape[1], dtype=torch.float64)[torch.from_numpy(h)], y

    marginals = _entropy(joint.sum(1)) + _entropy(joint.sum(0))
    name = f"table of {joint.shape[0]} labels x {joint.shape[1]} states"
    return Channel(name, float(marginals - _entropy(joint.ravel())), draw)


def exclusive_or_channel() -> Channel:
    """Whether two signs differ: one bit, none of which a linear probe can read."""

    def draw(n: int, rng: np.random.Generator) -> tuple[Tensor, Int[np.ndarray, "row"]]:
        signs = rng.integers(2, size=(n, 2))
        return torch.from_numpy(2.0 * signs - 1), signs[:, 0] ^ signs[:, 1]

    return Channel("exclusive or of two signs", 1.0, draw)


def _gauss() -> tuple[Float[np.ndarray, "node"], Float[np.ndarray, "node"]]:
    """Nodes and weights of an expectation over a standard Gaussian."""
    z = np.linspace(-10, 10, 8001)
    weight = norm.pdf(z)
    return z, weight / weight.sum()


def _entropy(p: Float[np.ndarray, "*batch outcome"]) -> Float[np.ndarray, "*batch"]:
    p = np.clip(p, 1e-300, 1.0)
    return np.asarray(-(p * np.log2(p)).sum(-1))


@dataclass(frozen=True)
class Bias:
    """Estimated minus true bits at one number of problems.

    Attributes:
        channel: The channel's name.
        truth: Its mutual information.
        problems: Rows drawn each time.
        bias: Mean over repeats.
        low: Lower end of the mean's 95 % confidence interval.
        high: Upper end.
        spread: Standard deviation of one estimate.
        coverage: Share of the estimates' own 95 % intervals that hold the truth.
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
    """Bias of usable information for each channel at each number of problems.

    Raises:
        ValueError: If there are fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"repeats={repeats}: expected at least 2, to know the spread")
    return [_bias(channel, size, repeats, seed) for channel in channels for size in sizes]


def _bias(channel: Channel, size: int, repeats: int, seed: int) -> Bias:
    errors, covered = [], []
    for repeat in range(repeats):
        states, labels = channel.draw(size, np.random.default_rng([seed, size, repeat]))
        found = usable_information(states, labels, shuffles=0, seed=repeat)
        errors.append(found.bits - channel.bits)
        covered.append(found.interval[0] <= channel.bits <= found.interval[1])
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
