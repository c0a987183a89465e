"""Sampled traces as batches, and their log-probabilities by a model that learns from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_lens.models.pocket.training.sampling import Sample


@dataclass(frozen=True)
class Rows:
    """Samples as one right-padded batch; entry t of a tensor is about predicting token t + 1."""

    ids: Int[Tensor, "sample pos"]
    written: Bool[Tensor, "sample rest"]
    drawn: Float[Tensor, "sample rest"]
    advantages: Float[Tensor, " sample"]


def cut_rows(
    prompts: Sequence[list[int]],
    samples: Sequence[Sample],
    advantages: Sequence[float],
    batch_tokens: int,
    pad: int,
) -> list[Rows]:
    """The samples in batches of similar length, none above `batch_tokens` but for a single one."""
    order = sorted(range(len(samples)), key=lambda i: len(prompts[i]) + len(samples[i].ids))
    cuts: list[list[int]] = [[]]
    for i in order:
        length = len(prompts[i]) + len(samples[i].ids)
        if cuts[-1] and (len(cuts[-1]) + 1) * length > batch_tokens:
            cuts.append([])
        cuts[-1].append(i)
    rows = []
    for cut in filter(None, cuts):
        longest = max(len(prompts[i]) + len(samples[i].ids) for i in cut)
        ids = torch.full((len(cut), longest), pad)
        written = torch.zeros(len(cut), longest - 1, dtype=torch.bool)
        drawn = torch.zeros(len(cut), longest - 1)
        for row, i in enumerate(cut):
            before, after = len(prompts[i]), len(prompts[i]) + len(samples[i].ids)
            ids[row, :after] = torch.tensor(prompts[i] + samples[i].ids)
            written[row, before - 1 : after - 1] = True
            drawn[row, before - 1 : after - 1] = torch.tensor(samples[i].log_probs)
        rows.append(Rows(ids, written, drawn, torch.tensor([advantages[i] for i in cut])))
    return rows


def log_probs_of(
    model: Callable[..., Any], ids: Int[Tensor, "sample pos"]
) -> Float[Tensor, "sample rest"]:
    """Log-probability of each token but the first; matrix products in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    scores = logits[:, :-1].float().log_softmax(-1)
    return scores.gather(2, ids[:, 1:, None])[:, :, 0]
