"""Words whose rates differ between right and wrong traces of the same problem.

python -m experiments.critical_words
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.study import THINKING_WORDS, Study, sampled_traces, save, settled_by_texts
from experiments.summaries import affine
from mi_lens.evaluation.word_contrast import WordContrast, WordRow, contrast_words
from mi_lens.models.pocket.training.wording import LEAN
from mi_lens.report.plots.words import words_figure
from mi_lens.traces.vocabulary import vocabulary, word_of


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        samples: Number of traces of each problem, at temperature 1.
        words: Thinking tokens.
        minimum_problems: Smallest number of problems whose traces must hold a word.
    """

    limit: int = 80
    samples: int = 8
    words: tuple[str, ...] = THINKING_WORDS
    minimum_problems: int = 5


def main(config: Config) -> None:
    """Contrasts the rates of words in right and in wrong traces of the same problems."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), config.samples)
    contrast = contrast_words(
        model.tokenizer, traces, minimum_problems=config.minimum_problems, seed=config.seed
    )
    for row in contrast.rows[:12]:
        print(f"{row.word:<16}{rates_with_interval(row):<64}p {row.p_adjusted:.4f}")
    once = written_once(model.tokenizer, traces, [row.word for row in contrast.rows])
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        words_figure(contrast),
        finding(contrast, once, config),
        {"contrast": contrast, "once": once},
    )


def rates_with_interval(row: WordRow) -> str:
    """Occurrences per 100 tokens, as "0.59 against 0.69 (difference -0.15 to -0.05)"."""
    low, high = row.difference.low or 0.0, row.difference.high or 0.0
    return (
        f"{100 * row.right:.2f} against {100 * row.wrong:.2f} per 100 tokens "
        f"(difference {100 * low:.2f} to {100 * high:.2f})"
    )


def written_once(tokenizer, traces: Sequence[mi_lens.Trace], words: Sequence[str]) -> list[str]:
    """Words that nine traces in ten write exactly once; their rate shows only a trace's length."""
    strings = vocabulary(tokenizer)
    by_trace = [Counter(word_of(strings[token]) for token in trace.token_ids) for trace in traces]
    return [word for word in words if np.mean([counts[word] == 1 for counts in by_trace]) >= 0.9]


def finding(contrast: WordContrast, once: Sequence[str], config: Config) -> Finding:
    """Which thinking tokens differ between right and wrong traces, and which word differs most."""
    thinking = {word.casefold() for word in config.words}
    rows = [row for row in contrast.rows if row.word in thinking]
    others = [row for row in contrast.rows if row.word not in once]
    telling = [row for row in others if row.p_adjusted <= 0.05]
    reach = [
        100 * (bound or 0.0) for row in rows for bound in (row.difference.low, row.difference.high)
    ]
    return Finding(
        about="further reading: words of right against wrong traces; paper 1, thinking tokens",
        claim="Thinking tokens go with reasoning that succeeds.",
        premises=settled_by_texts(
            config,
            f"Rates could not tell of reasoning: in the training texts the last digit of the "
            f"number written last picks the word of every sentence with probability {LEAN:g}, and "
            "chance the rest, whether or not the reasoning succeeds.",
        ),
        tests=tuple(
            ClaimTest(
                f"rate of {row.word!r} in right traces less that in wrong ones",
                affine(row.difference, 100),
                0.0,
                "per 100 tokens",
            )
            for row in rows
        ),
        text=f"Of {len(rows)} thinking tokens {sum(row in rows for row in telling)} differ between "
        f"{contrast.right} right and {contrast.wrong} wrong traces of the same {contrast.problems} "
        "problems (family-wise .05"
        + (
            f"; their intervals reach from {min(reach):+.2f} to {max(reach):+.2f} per 100 tokens"
            if reach
            else ""
        )
        + f"), of {len(others)} words {len(telling)}, where {len(once)} are left out that "
        "nearly every trace writes once. "
        + (
            f"The word that differs most surely is {others[0].word!r}, "
            f"{rates_with_interval(others[0])} in right against wrong traces, adjusted p = "
            f"{others[0].p_adjusted:.2g}."
            if others
            else f"No word is left of {len(contrast.rows)}."
        ),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
