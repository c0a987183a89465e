"""Words and tokens matched in frequency with ordinary ones that traces write about as often.

Words may differ only because traces write one of them more often. Therefore words are compared with
ordinary words of similar frequency. A name is either a token id, or a word that stands for all its
surface forms (`word_of`).
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
    """How often traces write each token id."""
    return Counter(token for trace in traces for token in trace.require_steps().token_ids)


def count_words(tokenizer, traces: Sequence[Trace]) -> Counter[str]:
    """How often traces write each word. Tokens that write no word count as the word ""."""
    strings = vocabulary(tokenizer)
    counts: Counter[str] = Counter()
    for token, count in count_tokens(traces).items():
        counts[word_of(strings[token])] += count
    return counts


def is_ordinary(string: str, *, letters: int, beside: Beside) -> bool:
    """Whether a string is ordinary enough to be compared with the words of a set.

    Args:
        string: A word, or a token's string.
        letters: The smallest number of letters that the string must have.
        beside: What the string may contain besides letters: "anything"; "no digit", because a digit
            would be part of a result; or "nothing".
    """
    if beside == "no digit" and any(map(str.isdigit, string)):
        return False
    if beside == "nothing" and not all(map(str.isalpha, string)):
        return False
    return sum(map(str.isalpha, string)) >= letters


def as_frequent(name: Name, candidates: Iterable[Name], counts: Mapping[Name, int]) -> list[Name]:
    """The candidates that are written half as often to twice as often as a word or token."""
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
    """Draws a match for each word or token: one of the five candidates nearest in log count.

    The most frequent name is matched first. Each candidate is drawn at most once.

    Args:
        names: The words or tokens to match.
        candidates: The words or tokens that may be drawn. Each must have a count.
        counts: How often each is written. A name that is not written counts as written once.
        rng: The random generator. It is used once per match.
        log: The logarithm that is applied to ratios of counts. Its base sets the unit of distance.
            Its rounding decides which of two equally near candidates comes first.
        distance: A further distance between a name and a candidate. It is added to the distance of
            the counts.
        within_factor_of_two: Whether to draw only from `as_frequent` candidates.

    Returns:
        A mapping from each name to its match. Names for which no candidate remains are left out.
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
