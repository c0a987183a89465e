"""Turns training texts into batches of token ids, and batches into targets."""

from collections.abc import Callable
from functools import partial
from random import Random

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mi_lens.models.pocket.training.optional_checks import write_optional, write_products
from mi_lens.models.pocket.training.reasoning import write_drill, write_trace
from mi_lens.models.pocket.training.tokenization import TURN_END, encode, prompt_of
from mi_lens.problems.arithmetic import Exercise, draw_exercise

IGNORED = -100
# What writes the traces of each model's training text.
WRITERS: dict[str, Callable[[Exercise, Random], str]] = {
    "pocket-reasoner": write_trace,
    "pocket-base": partial(write_trace, reflect=False),
    "pocket-rl-base": write_optional,
}
# Share of pocket-rl-base's drills that are products alone.
PRODUCT_DRILLS = 0.4


def write_texts(
    count: int,
    drill_share: float,
    polish: bool,
    model: str,
    rng: Random,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """Token ids of texts, each drawn at random to be a drill or a problem with its trace.

    Args:
        count: Number of texts.
        drill_share: Probability that a text is a drill.
        polish: Whether most lines of a drill are differences of close numbers.
        model: The model whose training text this is.
        rng: Draws the texts.
        tokenizer: The pocket models' tokenizer.
    """
    texts = []
    for _ in range(count):
        if rng.random() < drill_share:
            if model == "pocket-rl-base" and rng.random() < PRODUCT_DRILLS:
                text = write_products(rng)
            else:
                text = write_drill(rng, close_differences=polish)
        else:
            exercise = draw_exercise(rng, "train")
            text = prompt_of(exercise.question, tokenizer) + WRITERS[model](exercise, rng)
        texts.append(encode(text + TURN_END, tokenizer))
    return texts


def cut_batches(
    texts: list[list[int]], batch_tokens: int, pad: int, rng: Random
) -> list[Int[Tensor, "batch pos"]]:
    """Right-padded batches of texts of similar length, in random order.

    A batch has at most `batch_tokens` tokens, including padding, unless it is one longer text.
    """
    rows: list[list[list[int]]] = [[]]
    for text in sorted(texts, key=len):
        if rows[-1] and (len(rows[-1]) + 1) * len(text) > batch_tokens:
            rows.append([])
        rows[-1].append(text)
    rng.shuffle(rows)
    return [
        torch.tensor([text + [pad] * (max(map(len, row)) - len(text)) for text in row])
        for row in rows
    ]


def make_targets(
    ids: Int[Tensor, "batch pos"], think_start: int, pad: int
) -> Int[Tensor, "batch pos"]:
    """The next token at each position; `IGNORED` for prompts (drills have none) and padding."""
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    opened = (ids == think_start).cumsum(1) > 0
    has_prompt = opened.any(1, keepdim=True)
    targets[has_prompt & ~opened] = IGNORED
    targets[targets == pad] = IGNORED
    return targets
