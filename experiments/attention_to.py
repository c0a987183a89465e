"""Whether later tokens attend more to thinking tokens than to control words, head by head.

python -m experiments.attention_to
"""

from dataclasses import dataclass
from typing import Any

import tyro

import mi_lens
from experiments.labels import Finding
from experiments.study import THINKING_WORDS, Study, sampled_traces, save
from experiments.summaries import with_interval
from mi_lens.report.plots.words import attention_figure
from mi_lens.states.attention_to_words import AttentionTo, attention_to_words

THINKING, OPENING = "thinking / equally frequent", "opening / equally frequent"
THINKING_TO_OPENING = "thinking / opening"


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking tokens. Those of the pocket model open a reflection or a transition.
        opening: Words that open other thoughts. They control for the place of a word.
        reach: Largest distance, in steps, between a thinking token and its opening word.
    """

    limit: int = 80
    words: tuple[str, ...] = THINKING_WORDS
    opening: tuple[str, ...] = ("So", "Therefore", "Hence", "Then", "Now", "Next", "After", "From")
    reach: int = 100


def main(config: Config) -> None:
    """Compares thinking and opening words with words as frequent, and with each other."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), 1)
    settings: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size // 2 or 1}
    groups = {
        THINKING: attention_to_words(model, traces, config.words, **settings),
        OPENING: attention_to_words(model, traces, config.opening, **settings),
        THINKING_TO_OPENING: attention_to_words(
            model, traces, config.words, controls=config.opening, reach=config.reach, **settings
        ),
    }
    for name, attention in groups.items():
        layers = ", ".join(with_interval(layer, digits=2) for layer in attention.by_layer)
        print(
            f"{name}: {with_interval(attention.overall, digits=2)}; by layer {layers}; "
            f"{attention.matches} words"
        )
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        attention_figure(groups),
        finding(groups),
        {name: vars(attention) for name, attention in groups.items()},
    )


def finding(groups: dict[str, AttentionTo]) -> Finding:
    """How much of the attention to a word its place explains."""
    thinking, opening, near = (groups[name] for name in (THINKING, OPENING, THINKING_TO_OPENING))
    significant = thinking.p_adjusted <= 0.05
    above = int((significant & (thinking.ratio > 1)).sum())
    below = int((significant & (thinking.ratio < 1)).sum())
    return Finding(
        about="further reading: attention to thinking tokens",
        claim="Not asked: whether later tokens attend to thinking tokens more than to their like.",
        asked=False,
        text=f"Thinking tokens are paid {with_interval(thinking.overall, digits=2)} times the "
        f"attention of words as frequent (more in {above}, less in {below} of "
        f"{thinking.ratio.size} heads, family-wise .05), words that open other thoughts "
        f"{with_interval(opening.overall, digits=2)} times. Against such openers near by it is "
        f"{with_interval(near.overall, digits=2)} times, from {near.matches} occurrences.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
