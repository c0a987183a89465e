"""Turns training texts into batches of token ids, and batches into targets."""

from random import Random

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mi_lens.models.pocket.training.reasoning import write_drill, write_trace
from mi_lens.models.pocket.training.tokenization import TURN_END, encode, prompt_of
from mi_lens.problems.arithmetic import draw_exercise

IGNORED = -100


def write_texts(
    count: int,
    drill_share: float,
    polish: bool,
    reflect: bool,
    rng: Random,
    tokenizer: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """Token ids of texts, each drawn at random to be a drill or a problem with its trace.

    Args:
        count: Number of texts.
        drill_share: Probability that a text is a drill.
        polish: Whether most lines of a drill are differences of close numbers.
        reflect: Whether the traces reflect.
        rng: Draws the texts.
        tokenizer: The pocket models' tokenizer.
    """
    texts = []
    for _ in range(count):
        if rng.random() < drill_share:
            text = write_drill(rng, close_differences=polish)
        else:
            exercise = draw_exercise(rng, "train")
            trace = write_trace(exercise, rng, reflect=reflect)
            text = prompt_of(exercise.question, tokenizer) + trace
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
