"""How often two groups of traces write words, per 1,000 tokens.

Upper and lower case are the same word, as in all of this package: "So" and "so". Words are those of
the text, so no tokenizer is needed, and "Let's" has the word "let".
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mi_lens.evaluation.two_groups import Contrast, Pairing, contrast, pair
from mi_lens.traces.text_pieces import Unit, length_in, text_pieces, text_words
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import SCALING_WORDS, word_of

PER = 1000
THINKING_WORDS = (*SCALING_WORDS, "Alternatively")


@dataclass(frozen=True)
class WordRate:
    """One word in two groups of traces.

    Attributes:
        word: The word, case folded.
        per_thousand: Its occurrences per 1,000 tokens or text pieces, compared.
    """

    word: str
    per_thousand: Contrast


@dataclass(frozen=True)
class WordRates:
    """Words of a group of traces, compared with those of another.

    Attributes:
        rows: One per word. Given words keep their order; otherwise the smallest p-value is first.
        unit: What lengths are counted in.
        pairing: Which traces were compared.
    """

    rows: tuple[WordRate, ...]
    unit: Unit
    pairing: Pairing


def compare_words(
    first: Sequence[Trace],
    second: Sequence[Trace],
    words: Sequence[str] | None = THINKING_WORDS,
    *,
    unit: Unit | None = None,
    minimum_problems: int = 5,
    draws: int = 9999,
    seed: int = 0,
) -> WordRates:
    """Compares how often two groups of traces write words, within the problems that they share.

    Args:
        first: Traces.
        second: Other traces.
        words: The words; None takes every word of the compared traces.
        unit: What a trace's length is counted in. None takes tokens if all traces have token ids,
            and text pieces if none has. Tokens of other tokenizers are another unit: give "text
            pieces" for models with different ones.
        minimum_problems: Without given words, a word counts if it occurs in at least this many of
            the compared problems.
        draws: Number of permutations.
        seed: Seeds the permutations and the bootstrap.

    Raises:
        ValueError: If a group has no traces or holds a trace without length, if some traces have
            token ids and others have none, or if there are no words to compare.
    """
    unit = unit or common_unit([*first, *second])
    pairing = pair(first, second)
    counts = [[text_words(trace) for trace in group] for group in (first, second)]
    wanted = _common(pairing, counts, minimum_problems) if words is None else _given(words)
    rates = [
        PER
        * np.array([[count[word] for word in wanted] for count in of_group], dtype=float)
        / np.array([[length_in(unit, trace)] for trace in group])
        for of_group, group in zip(counts, (first, second), strict=True)
    ]
    contrasts = contrast(pairing, rates[0], rates[1], draws=draws, seed=seed)
    rows = [WordRate(*row) for row in zip(wanted, contrasts, strict=True)]
    if words is None:
        rows.sort(key=lambda row: (*_p_values(row.per_thousand), row.word))
    return WordRates(tuple(rows), unit, pairing)


def common_unit(traces: Sequence[Trace]) -> Unit:
    """Tokens if all traces have token ids, text pieces if none has.

    Raises:
        ValueError: If some have token ids and others have none.
    """
    alone = sum(trace.text_only for trace in traces)
    if 0 < alone < len(traces):
        raise ValueError(
            f"{alone} of {len(traces)} traces are text alone, and the others have token ids, so "
            "their lengths are in different units; count all of them in text pieces: "
            "unit='text pieces' (--unit 'text pieces')"
        )
    return "text pieces" if alone else "tokens"


def _p_values(compared: Contrast) -> tuple[float, float]:
    return compared.p_adjusted, compared.p_value


def _given(words: Sequence[str]) -> list[str]:
    """The words, case folded, without repetitions."""
    if not words or isinstance(words, str):
        raise ValueError(f"words={words!r}: expected a list of words, such as ['Wait', 'So']")
    for word in words:
        if len(text_pieces(word)) != 1 or not word.strip()[0].isalpha():
            raise ValueError(f"{word!r} is not one word of letters, such as 'Wait'")
    return list(dict.fromkeys(map(word_of, words)))


def _common(
    pairing: Pairing, counts: Sequence[Sequence[Counter[str]]], minimum_problems: int
) -> list[str]:
    """The words that occur in enough of the compared problems."""
    by_problem: dict[int, set[str]] = {}
    for stratum in pairing.strata:
        written = by_problem.setdefault(stratum.problem, set())
        written.update(*(counts[0][i] for i in stratum.first))
        written.update(*(counts[1][i] for i in stratum.second))
    spread = Counter(word for written in by_problem.values() for word in written)
    words = sorted(word for word, problems in spread.items() if problems >= minimum_problems)
    if not words:
        raise ValueError(
            f"no word stands in traces of {minimum_problems} of {len(by_problem)} problems; give "
            "more problems, or lower minimum_problems"
        )
    return words
