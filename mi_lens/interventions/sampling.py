"""How a token is chosen from logits: by a request's own randomness, never a global generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.provenance import content_hash


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from next-token probabilities.

    Attributes:
        temperature: 0 takes the likeliest token (greedy); else logits are divided by it.
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


def choose_token(logits: Float[Tensor, "d_vocab"], sampling: Sampling, uniform: float) -> int:
    """A token from its logits; `uniform`, in [0, 1), is the only randomness.

    Of tokens that tie for the likeliest, the first.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Shifted by the maximum before division: a tiny temperature must not overflow.
    scaled = (logits.double() - logits.max().double()) / sampling.temperature
    probabilities, order = scaled.softmax(-1).sort(descending=True, stable=True)
    keep = probabilities >= sampling.min_p * probabilities[0]
    # A token stays if the ones before it have not yet reached top_p; the first always does.
    keep[1:] &= probabilities.cumsum(-1)[:-1] < sampling.top_p
    if sampling.top_k is not None:
        keep[sampling.top_k :] = False
    cumulative = (probabilities * keep).cumsum(-1)
    index = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return int(order[min(index, int(keep.sum()) - 1)])


def uniform(seed: int, prompt_ids: Sequence[int], step: int, purpose: str = "token") -> float:
    """A number in [0, 1) from a counter-based generator: keyed by request, counted by step.

    The prompt is part of the key, so that problems sampled with one seed are independent; so is
    the purpose, so that a coin and a token of the same step are.
    """
    key = int(content_hash([seed, list(prompt_ids), purpose]), 16)
    return float(np.random.Generator(np.random.Philox(key=key, counter=step)).random())
