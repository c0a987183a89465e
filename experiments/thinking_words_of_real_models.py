"""Thinking words in texts of large reasoning models, and of instruction-tuned models beside them.

python -m experiments.thinking_words_of_real_models
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tyro

from experiments.labels import ClaimTest, Finding
from experiments.study import save
from experiments.texts_of_models import Texts, model_of
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.word_rates import WordRates, compare_words
from mi_lens.report.plots.two_groups import word_rates_figure

STATED = (
    "so",
    "wait",
    "hmm",
    "maybe",
    "let",
    "therefore",
)  # Words that the finding gives rates of.


@dataclass(frozen=True, kw_only=True)
class Config(Texts):
    """What to read; see `Texts`."""


def main(config: Config) -> None:
    """Compares each reasoning model with its partner, problem by problem."""
    if reason := config.missing():
        print(reason)
        return
    compared, checksums = {}, {}
    for reasoner, partner in config.pairs():
        (first, sum_of_first), (second, sum_of_second) = map(config.read, (reasoner, partner))
        compared[model_of(first)] = compare_words(first, second, seed=config.seed)
        checksums |= {model_of(first): sum_of_first, model_of(second): sum_of_second}
    alone = {}
    for file in sorted(config.data.glob("aime25_*.jsonl")):
        traces, checksums[file.stem] = config.read(file.stem)
        alone[model_of(traces)] = compare_words(traces, traces, seed=config.seed)
    for name, rates in compared.items():
        for row in rates.rows:
            found = row.per_thousand
            print(f"{name:<32}{row.word:<14}{found.first.in_form('.2f'):<24}", end="")
            print(found.second.in_form(".2f"))
    save(
        config,
        checksums,
        word_rates_figure(
            {_short(name): rates for name, rates in compared.items()},
            ("reasoning model", "instruction-tuned model"),
        ),
        finding(compared),
        {
            "compared": {name: numbers(rates) for name, rates in compared.items()},
            "reasoning models alone, AIME25": {
                name: {row.word: row.per_thousand.first for row in rates.rows}
                for name, rates in alone.items()
            },
        },
    )


def numbers(rates: WordRates) -> dict[str, object]:
    """The rates of each word, and what they were counted in."""
    return {
        "unit": rates.unit,
        "paired by": rates.pairing.paired_by,
        "problems": rates.pairing.problems,
        "per 1,000": {row.word: row.per_thousand for row in rates.rows},
    }


def _short(name: str) -> str:
    return name.removeprefix("deepseek-")


def finding(compared: Mapping[str, WordRates]) -> Finding:
    """Which thinking words every reasoning model writes more often than its partner."""
    words = [row.word for row in next(iter(compared.values())).rows]
    signs = {word: {_sign(rates, word) for rates in compared.values()} for word in words}
    more = [word for word, found in signs.items() if found == {1}]
    less = [word for word, found in signs.items() if -1 in found]
    problems = sorted({rates.pairing.problems[0] for rates in compared.values()})
    ranges = "; ".join(f"{word} {_range(compared, word)}" for word in STATED if word in words)
    return Finding(
        about="paper 1, thinking tokens, in texts that nobody read the states of",
        claim="So, Wait, Hmm, Therefore and words like them are those of reasoning models.",
        tests=tuple(
            ClaimTest(f"{word}, {_short(name)} less its partner", found, 0.0, "per 1,000")
            for word in STATED
            if word in words
            for name, rates in compared.items()
            for found in (_difference(rates, word),)
        ),
        text=f"In published texts of {len(compared)} R1 distills, read as text alone, "
        f"{len(more)} of {len(words)} thinking words are more frequent in each of them than in the "
        f"instruction-tuned model of its size ({_quoted(more)}), and of {_quoted(less)} the "
        f"opposite is true in at least one (the same {' or '.join(map(str, problems))} problems, "
        "family-wise .05). "
        "Per 1,000 text pieces, upper and lower case alike, reasoning against other models: "
        f"{ranges}; this says what such models write, not what their states hold, and the other "
        "models are not the very bases that the distills were trained from.",
    )


def _difference(rates: WordRates, word: str) -> Estimate:
    (found,) = (row.per_thousand.difference for row in rates.rows if row.word == word)
    return found


def _sign(rates: WordRates, word: str) -> int:
    """Whether the reasoning model writes a word more (1) or less often (-1), or neither is sure."""
    (found,) = (row.per_thousand for row in rates.rows if row.word == word)
    if found.p_adjusted > 0.05:
        return 0
    return 1 if (found.difference.mean or 0) > 0 else -1


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f"“{word}”" for word in words) or "no word"


def _range(compared: Mapping[str, WordRates], word: str) -> str:
    """The least and the largest rate over models: "9.4 to 10.3 against 2.2 to 2.9"."""
    rows = [r.per_thousand for rates in compared.values() for r in rates.rows if r.word == word]
    sides = ([row.first.mean or 0 for row in rows], [row.second.mean or 0 for row in rows])
    shown = ([f"{min(side):.1f}", f"{max(side):.1f}"] for side in sides)
    return " against ".join(low if low == high else f"{low} to {high}" for low, high in shown)


if __name__ == "__main__":
    main(tyro.cli(Config))
