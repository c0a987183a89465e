"""Sampling: chooses a token from logits with the request's own randomness, never a global one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.common.on_device import on_device
from mi_lens.common.provenance import content_hash


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from next-token probabilities.

    Attributes:
        temperature: 0 takes the likeliest token (greedy); other values divide the logits.
        top_p: Keeps the fewest likeliest tokens whose probability reaches this.
        top_k: Keeps this many likeliest tokens; None keeps all.
        min_p: Keeps tokens at least this many times as likely as the likeliest.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected a probability above 0, at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: expected at least 1 token, or None for all")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: expected a ratio of probabilities, 0 to 1")


def choose_tokens(
    logits: Float[Tensor, "rows d_vocab"],
    samplings: Sequence[Sampling],
    uniforms: Float[Tensor, " rows"] | None,
) -> Int[Tensor, " rows"]:
    """Chooses a token for every row; numbers in [0, 1) are the only randomness.

    If several tokens are equally likely, greedy decoding takes the one with the lowest id. A row's
    token does not depend on the other rows, and the host does not wait for it.

    Args:
        logits: Next-token logits.
        samplings: How each row's token is chosen.
        uniforms: A number for each row, in float64. Greedy rows do not use theirs, and need none.
    """
    greedy = logits.argmax(-1)
    if all(sampling.temperature == 0 for sampling in samplings):
        return greedy
    assert uniforms is not None
    exact = in_float64(logits)

    def column(name: str, instead: float | int) -> Float[Tensor, "rows 1"]:
        values = tuple(getattr(sampling, name) or instead for sampling in samplings)
        return on_device(values, exact.device, torch.float64)[:, None]

    # Shifted by the maximum before division: a tiny temperature must not overflow.
    scaled = (exact - exact.amax(-1, keepdim=True)) / column("temperature", 1.0)
    probabilities, order = scaled.softmax(-1).sort(descending=True, stable=True)
    keep = probabilities >= column("min_p", 0.0) * probabilities[:, :1]
    # A token stays if those before it have not yet reached top_p; so the first always stays.
    keep[:, 1:] &= probabilities.cumsum(-1)[:, :-1] < column("top_p", 1.0)
    if any(sampling.top_k is not None for sampling in samplings):
        ranks = torch.arange(keep.shape[1], device=keep.device)
        keep &= ranks < column("top_k", keep.shape[1])
    cumulative = (probabilities * keep).cumsum(-1)
    index = torch.searchsorted(
        cumulative, uniforms[:, None].to(exact.device) * cumulative[:, -1:], right=True
    )
    index = torch.minimum(index, keep.sum(-1, keepdim=True) - 1)
    sampled = order.gather(-1, index)[:, 0].to(greedy.device)
    is_greedy = tuple(sampling.temperature == 0 for sampling in samplings)
    return torch.where(on_device(is_greedy, greedy.device, torch.bool), greedy, sampled)


def entropy_bits(logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, " rows"]:
    """The entropy of each row's next-token distribution at temperature 1, in bits and float64."""
    log_p = in_float64(logits).log_softmax(-1)
    return torch.special.entr(log_p.exp()).sum(-1) / math.log(2)


def uniform_key(seed: int, prompt_ids: Sequence[int], purpose: str = "token") -> int:
    """The key of the numbers of a request for one purpose; see `uniforms`."""
    return int(content_hash([seed, list(prompt_ids), purpose]), 16)


def uniforms(key: int, step: int, count: int) -> Float[np.ndarray, " count"]:
    """Numbers in [0, 1) for steps from one on; a counter-based generator counts the steps.

    The key is a request's. It includes the prompt, so that problems sampled with the same seed are
    independent. It also includes the purpose, so that several draws at the same step are
    independent.
    """
    # Each count of the generator gives four numbers, of which a step has the first.
    return np.random.Generator(np.random.Philox(key=key, counter=step)).random(4 * count)[::4]
