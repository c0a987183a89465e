"""Attention that later tokens pay to thinking tokens, head by head, over what controls are paid.

python -m experiments.attention_to
"""

from dataclasses import dataclass
from typing import Any

import tyro

import mi_lens
from experiments.study import THINKING_WORDS, Finding, Study, said, sampled_traces, save
from mi_lens.report.plots.words import attention_figure
from mi_lens.states.attention_to_words import AttentionTo, attention_to_words

OWN, OTHER, BOTH = (
    "thinking / equally frequent", "opening / equally frequent", "thinking / opening",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking tokens; those of the pocket model open a reflection or a transition.
        opening: Words that open other thoughts: the control of place.
        reach: Steps within which an opening word is looked for on both sides of a thinking token.
    """

    limit: int = 80
    words: tuple[str, ...] = THINKING_WORDS
    opening: tuple[str, ...] = ("So", "Therefore", "Hence", "Then", "Now", "Next", "After", "From")
    reach: int = 100


def main(config: Config) -> None:
    """Compares both kinds of words with ordinary ones, and with each other."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), 1)
    settings: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size // 2 or 1}
    groups = {
        OWN: attention_to_words(model, traces, config.words, **settings),
        OTHER: attention_to_words(model, traces, config.opening, **settings),
        BOTH: attention_to_words(
            model, traces, config.words, controls=config.opening, reach=config.reach, **settings
        ),
    }
    for name, found in groups.items():
        layers = ", ".join(said(layer, digits=2) for layer in found.by_layer)
        print(f"{name}: {said(found.overall, digits=2)}; by layer {layers}; {found.matches} words")
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        attention_figure(groups),
        finding(groups),
        {name: vars(found) for name, found in groups.items()},
    )


def finding(groups: dict[str, AttentionTo]) -> Finding:
    """What the place of a word explains of the attention it is paid."""
    own, other, both = (groups[name] for name in (OWN, OTHER, BOTH))
    significant = own.p_adjusted <= 0.05
    above = int((significant & (own.ratio > 1)).sum())
    below = int((significant & (own.ratio < 1)).sum())
    return Finding(
        about="further reading: attention to thinking tokens",
        claim="Not asked: whether later tokens attend to thinking tokens more than to their like.",
        verdict="beyond",
        text=f"Thinking tokens are paid {said(own.overall, digits=2)} times the attention of words "
        f"as frequent (more in {above}, less in {below} of {own.ratio.size} heads, family-wise "
        f".05), words that open other thoughts {said(other.overall, digits=2)} times. Against such "
        f"openers near by it is {said(both.overall, digits=2)} times, from {both.matches} "
        "occurrences.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
