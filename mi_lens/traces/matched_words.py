"""Words and tokens matched in frequency: ordinary ones that traces write about equally often.

Much of what distinguishes a word comes only from how often it is written. So words are compared
with ordinary words of like frequency. What is matched is named by its token id, or by its word with
all surface forms (`word_of`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary, word_of

NEAREST = 5  # A match is drawn from this many of the nearest candidates.

Name = TypeVar("Name", int, str)
Beside = Literal["anything", "no digit", "nothing"]


def count_tokens(traces: Sequence[Trace]) -> Counter[int]:
    """How often traces write each token, by its id."""
    return Counter(token for trace in traces for token in trace.token_ids)


def count_words(tokenizer, traces: Sequence[Trace]) -> Counter[str]:
    """How often traces write each word; tokens that write none count as the word ""."""
    strings = vocabulary(tokenizer)
    counts: Counter[str] = Counter()
    for token, count in count_tokens(traces).items():
        counts[word_of(strings[token])] += count
    return counts


def is_ordinary(string: str, *, letters: int, beside: Beside) -> bool:
    """Whether a string may stand for a word of a set.

    Args:
        string: A word, or a token's string.
        letters: The fewest letters that it must have.
        beside: What it may have beside letters: "anything"; "no digit", which would be part of a
            result; or "nothing".
    """
    if beside == "no digit" and any(map(str.isdigit, string)):
        return False
    if beside == "nothing" and not all(map(str.isalpha, string)):
        return False
    return sum(map(str.isalpha, string)) >= letters


def as_frequent(name: Name, candidates: Iterable[Name], counts: Mapping[Name, int]) -> list[Name]:
    """The candidates that are written half to twice as often as a word or token."""
    count = counts.get(name, 0)
    return [other for other in candidates if count / 2 <= counts[other] <= 2 * count]


def draw_matches(
    names: Iterable[Name],
    candidates: Iterable[Name],
    counts: Mapping[Name, int],
    rng: np.random.Generator,
    *,
    log: Callable[[float], float],
    distance: Callable[[Name, Name], float] | None = None,
    within_factor_of_two: bool = False,
) -> dict[Name, Name]:
    """Draws for each word or token one of the five candidates nearest in log count.

    The most frequent is matched first. Each candidate is drawn at most once.

    Args:
        names: What is to be matched.
        candidates: What may be drawn; all of them have counts.
        counts: How often each is written; what is not written counts as written once.
        rng: Makes one draw for each match.
        log: The logarithm of the counts. Its base is the unit of their distance. Its rounding
            decides which of two equally near candidates comes first.
        distance: A further distance between a name and a candidate, added to that of the counts.
        within_factor_of_two: Draws only from `as_frequent` candidates.

    Returns:
        Name to its match; a name without any candidate left is left out.
    """
    left = set(candidates)
    matches: dict[Name, Name] = {}
    for name in sorted(names, key=lambda n: (-counts.get(n, 0), n)):

        def apart(other: Name, name: Name = name) -> float:
            by_count = abs(log(counts[other] / max(counts.get(name, 0), 1)))
            return float(by_count if distance is None else by_count + distance(name, other))

        allowed = as_frequent(name, left, counts) if within_factor_of_two else left
        nearest = sorted(allowed, key=lambda other: (apart(other), other))[:NEAREST]
        if nearest:
            matches[name] = nearest[int(rng.integers(len(nearest)))]
            left.remove(matches[name])
    return matches
