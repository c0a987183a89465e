"""Sampling: chooses a token from logits with the request's own randomness, never a global one."""

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


def choose_token(logits: Float[Tensor, "d_vocab"], sampling: Sampling, uniform: float) -> int:
    """Chooses a token from logits; the number `uniform`, in [0, 1), is the only randomness.

    If several tokens are equally likely, greedy decoding takes the one with the lowest id.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Shifted by the maximum before division: a tiny temperature must not overflow.
    scaled = (logits.double() - logits.max().double()) / sampling.temperature
    probabilities, order = scaled.softmax(-1).sort(descending=True, stable=True)
    keep = probabilities >= sampling.min_p * probabilities[0]
    # A token stays if those before it have not yet reached top_p; so the first always stays.
    keep[1:] &= probabilities.cumsum(-1)[:-1] < sampling.top_p
    if sampling.top_k is not None:
        keep[sampling.top_k :] = False
    cumulative = (probabilities * keep).cumsum(-1)
    index = int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return int(order[min(index, int(keep.sum()) - 1)])


def uniform(seed: int, prompt_ids: Sequence[int], step: int, purpose: str = "token") -> float:
    """A number in [0, 1) from a counter-based generator: the request is the key, the step counts.

    The key includes the prompt, so that problems sampled with the same seed are independent. It
    also includes the purpose, so that several draws at the same step are independent.
    """
    key = int(content_hash([seed, list(prompt_ids), purpose]), 16)
    return float(np.random.Generator(np.random.Philox(key=key, counter=step)).random())
