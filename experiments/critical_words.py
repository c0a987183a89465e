"""Words that right traces of a problem write more often than wrong ones, or less.

python -m experiments.critical_words
"""

from dataclasses import dataclass

import tyro

import mi_lens
from experiments.study import Finding, Study, Verdict, sampled_traces, save
from mi_lens.contrast import WordContrast, WordRow, contrast_words
from mi_lens.reading_plots import words_figure


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        samples: Traces of each problem, at temperature 1.
        words: Thinking tokens.
        minimum_problems: A word must stand in traces of so many problems.
    """

    limit: int = 80
    samples: int = 8
    words: tuple[str, ...] = ("Wait", "Hmm", "Hold", "Actually", "Alternatively")
    minimum_problems: int = 5


def main(config: Config) -> None:
    """Contrasts the rates of words in right and in wrong traces of the same problems."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), config.samples)
    found = contrast_words(
        model.tokenizer, traces, minimum_problems=config.minimum_problems, seed=config.seed
    )
    for row in found.rows[:12]:
        print(f"{row.word:<16}{said_rates(row):<64}p {row.p_adjusted:.4f}")
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        words_figure(found),
        finding(found, config),
        {"contrast": found},
    )


def said_rates(row: WordRow) -> str:
    """Occurrences per 100 tokens, as "0.59 against 0.69 (difference -0.15 to -0.05)"."""
    low, high = row.difference.low or 0.0, row.difference.high or 0.0
    return (
        f"{100 * row.right:.2f} against {100 * row.wrong:.2f} per 100 tokens "
        f"(difference {100 * low:.2f} to {100 * high:.2f})"
    )


def finding(found: WordContrast, config: Config) -> Finding:
    """Which thinking tokens tell right from wrong traces, and which word tells most."""
    thinking = {word.casefold() for word in config.words}
    rows = [row for row in found.rows if row.word in thinking]
    telling = [row for row in found.rows if row.p_adjusted <= 0.05]
    signs = {row.right > row.wrong for row in telling if row in rows}
    verdicts: dict[tuple[bool, ...], Verdict] = {(True,): "with", (False,): "against"}
    most = found.rows[0]
    return Finding(
        about="further reading: words of right against wrong traces; paper 1, thinking tokens",
        claim="Thinking tokens go with reasoning that succeeds.",
        verdict=verdicts.get(tuple(signs), "in part"),
        text=f"Of {len(rows)} thinking tokens {sum(row in rows for row in telling)} differ between "
        f"{found.right} right and {found.wrong} wrong traces of the same {found.problems} problems "
        f"(family-wise .05), of all {len(found.rows)} words {len(telling)}. The word that differs "
        f"most surely is {most.word!r}, {said_rates(most)} in right against wrong traces, "
        f"p = {most.p_adjusted:.2g}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
