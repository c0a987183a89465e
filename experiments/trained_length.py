"""The premise that a budget is no longer than the texts that a model was trained on."""

from random import Random
from typing import Any

from experiments.labels import Premise, exactly
from experiments.study import Study
from mi_lens.models.pocket import CHECKPOINTS
from mi_lens.models.pocket.training.batches import write_texts

TEXTS = 2000  # Number of training texts written to find the longest.


def within_trained_length(config: Study, budget: int, tokenizer: Any) -> tuple[Premise, ...]:
    """Whether the model was trained on texts as long as a budget, where its texts are known.

    Args:
        config: The study; of other models than the pocket models nothing is known.
        budget: The largest budget, in tokens.
        tokenizer: The model's tokenizer.
    """
    if config.model not in CHECKPOINTS:
        return ()
    source = "pocket-rl-base" if config.model == "pocket-rl" else config.model
    texts = write_texts(TEXTS, 0.0, False, source, Random(config.seed), tokenizer)
    longest = max(map(len, texts))
    return (
        Premise(
            "Going on presupposes a model that can write as much: the budget is "
            f"{budget} tokens, and the longest of {TEXTS:,} texts like those that it was trained "
            f"on has {longest}, with its question.",
            "premise not met",
            exactly(longest - budget),
        ),
    )
