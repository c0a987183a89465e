"""What else could have been suppressed: words like thinking tokens in one way, and not thinking.

Paper 1 compares suppression with random words of the vocabulary. A model hardly ever writes such a
word, so banning it changes nothing whatever thinking tokens do. The other controls are written as
often, as uncertainly or as late as the words that they stand for.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from mi_lens.traces.matched_words import count_words, draw_matches, is_ordinary
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, as_words, vocabulary, word_of

Matching = Literal["vocabulary", "emitted", "frequency", "entropy", "position"]


@dataclass(frozen=True)
class Control:
    """One draw of control words.

    Attributes:
        words: As many as were to be matched; each stands for the word at its place.
        by: How they were found.
        emitted: How often traces write them.
        matched_emitted: How often the same traces write the words that they stand for.
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
    """Draws sets of control words for `Suppress` and its like.

    Candidates have at least two letters and no digit, and are no word of the set. "vocabulary"
    draws among all such words of the vocabulary (paper 1), "emitted" among those that the traces
    write. "frequency" draws, from the set's most to its least frequent word, one of the five
    candidates nearest in log count, each word once; "entropy" and "position" want the mean
    next-token entropy, or the mean relative place in the trace, near as well: distances are in
    units of a factor of two, and of a standard deviation over words.

    Args:
        tokenizer: The traces' tokenizer.
        traces: Baseline traces.
        words: The words to match; token ids stand for the words they write.
        by: As above.
        draws: Number of sets.
        entropy: For "entropy": `next_token_uncertainty(...)["entropy"]` of every trace, in bits.
        seed: Of the draws.

    Raises:
        ValueError: If the traces write none of the words, or candidates are too few.
    """
    if by not in get_args(Matching):
        raise ValueError(f"by={by!r}: expected one of {get_args(Matching)}")
    if (entropy is not None) != (by == "entropy"):
        raise ValueError("entropy is needed for by='entropy' and for nothing else")
    given = [tokenizer.decode([w]) if isinstance(w, int) else w for w in as_words(words)]
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
    """Of every word written, the mean of the entropy, or of the relative position if None."""
    strings = vocabulary(tokenizer)
    values: dict[str, list[float]] = defaultdict(list)
    for i, trace in enumerate(traces):
        for step, token in enumerate(trace.token_ids):
            if word := word_of(strings[token]):
                value = step / len(trace) if entropy is None else float(entropy[i][step])
                values[word].append(value)
    return {word: float(np.mean(written)) for word, written in values.items()}


def _distance(feature: Mapping[str, float]) -> Callable[[str, str], float]:
    """How far two words are apart in a feature, in standard deviations over words.

    The distance from a word without the feature is 0.
    """
    spread = max(float(np.std(list(feature.values()))), 1e-12)

    def distance(word: str, other: str) -> float:
        return abs(feature[other] - feature[word]) / spread if word in feature else 0.0

    return distance
