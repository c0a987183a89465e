"""Control words: what to suppress instead of thinking tokens, to tell whether these are special.

Paper 1's control suppresses random words of the vocabulary. A model hardly ever writes such words,
so suppressing them changes nothing, whether or not thinking tokens matter. The other controls here
are written as often, as uncertainly or as late as the words that they replace.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from mi_lens.traces.matched_words import count_words, draw_matches, is_ordinary
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, spelled, vocabulary, word_of

Matching = Literal["vocabulary", "emitted", "frequency", "entropy", "position"]


@dataclass(frozen=True)
class Control:
    """One draw of control words.

    Attributes:
        words: One control word for each word to match, in the same order.
        by: What the control words have in common with the words that they replace.
        emitted: How often the traces write the control words.
        matched_emitted: How often the same traces write the words that are replaced.
    """

    words: tuple[str, ...]
    by: Matching
    emitted: int
    matched_emitted: int


def matched_controls(
    tokenizer,
    traces: Sequence[Trace],
    words: Words,
    *,
    by: Matching = "frequency",
    draws: int = 10,
    entropy: Sequence[Float[np.ndarray, "_"]] | None = None,
    seed: int = 0,
) -> list[Control]:
    """Draws sets of control words for `Suppress` and similar interventions.

    Candidates are words with at least two letters and no digit that are not to be matched
    themselves. "vocabulary" draws from all such words of the vocabulary (paper 1); "emitted" draws
    from those that the traces write. "frequency" goes from the most to the least frequent word; for
    each it draws one of the five nearest candidates in log count, and uses no candidate twice.
    "entropy" and "position" also match the mean next-token entropy, or the mean relative position
    in the trace. They add the distance in log2 count to the distance in standard deviations over
    words.

    Args:
        tokenizer: The traces' tokenizer.
        traces: Baseline traces.
        words: The words to match; a token id means the word that it writes.
        by: How controls are matched, as above.
        draws: Number of sets to draw.
        entropy: For "entropy": `next_token_uncertainty(...)["entropy"]` of every trace, in bits.
        seed: Seeds the draws.

    Raises:
        ValueError: If the traces write none of the words, or there are too few candidates.
    """
    if by not in get_args(Matching):
        raise ValueError(f"by={by!r}: expected one of {get_args(Matching)}")
    if (entropy is not None) != (by == "entropy"):
        raise ValueError("entropy is needed for by='entropy' and for nothing else")
    given = [tokenizer.decode([w]) if isinstance(w, int) else w for w in spelled(words)]
    wanted = list(dict.fromkeys(map(word_of, given)))
    counts = count_words(tokenizer, traces)
    del counts[""]
    if not any(counts.get(word) for word in wanted):
        raise ValueError(f"{len(traces)} traces write none of {wanted}: there is nothing to match")
    pool = {word_of(s) for s in vocabulary(tokenizer)} if by == "vocabulary" else counts.keys()
    candidates = sorted(
        word
        for word in pool
        if word not in wanted and is_ordinary(word, letters=2, beside="no digit")
    )
    if len(candidates) < len(wanted):
        raise ValueError(
            f"{len(candidates)} words are left to draw {len(wanted)} controls from; give more "
            "traces, or fewer words"
        )
    distance = None
    if by in ("entropy", "position"):
        distance = _distance(_mean_by_word(tokenizer, traces, entropy))
    rng = np.random.default_rng(seed)
    controls = []
    for _ in range(draws):
        if by in ("vocabulary", "emitted"):
            drawn = [str(word) for word in rng.choice(candidates, len(wanted), replace=False)]
        else:
            matches = draw_matches(wanted, candidates, counts, rng, log=np.log2, distance=distance)
            drawn = [matches[word] for word in wanted]
        emitted, matched = (sum(counts[w] for w in group) for group in (drawn, wanted))
        controls.append(Control(tuple(drawn), by, emitted, matched))
    return controls


def _mean_by_word(
    tokenizer, traces: Sequence[Trace], entropy: Sequence[Float[np.ndarray, "_"]] | None
) -> dict[str, float]:
    """For every word written, its mean entropy, or its mean relative position if that is None."""
    strings = vocabulary(tokenizer)
    values: dict[str, list[float]] = defaultdict(list)
    for i, trace in enumerate(traces):
        for step, token in enumerate(trace.token_ids):
            if word := word_of(strings[token]):
                value = step / len(trace) if entropy is None else float(entropy[i][step])
                values[word].append(value)
    return {word: float(np.mean(of_word)) for word, of_word in values.items()}


def _distance(feature: Mapping[str, float]) -> Callable[[str, str], float]:
    """The distance of two words in a feature, in standard deviations over words.

    From a word that lacks the feature, the distance is 0.
    """
    spread = max(float(np.std(list(feature.values()))), 1e-12)

    def distance(word: str, other: str) -> float:
        return abs(feature[other] - feature[word]) / spread if word in feature else 0.0

    return distance
