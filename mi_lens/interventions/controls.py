"""What else could have been suppressed: words like thinking tokens in one way, and not thinking.

Paper 1 compares suppression with random words of the vocabulary. A model hardly ever writes such a
word, so banning it changes nothing whatever thinking tokens do. The other controls are written as
often, as uncertainly or as late as the words that they stand for.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, as_words, vocabulary, word_of

Matching = Literal["vocabulary", "emitted", "frequency", "entropy", "position"]
NEAREST = 5  # a control is drawn from so many words that are nearest


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
    counts, features = _describe(tokenizer, traces, entropy)
    if not any(counts.get(word) for word in wanted):
        raise ValueError(f"{len(traces)} traces write none of {wanted}: there is nothing to match")
    pool = {word_of(s) for s in vocabulary(tokenizer)} if by == "vocabulary" else counts.keys()
    candidates = sorted(
        w for w in pool if sum(map(str.isalpha, w)) > 1 and not any(map(str.isdigit, w))
        and w not in wanted
    )  # fmt: skip
    if len(candidates) < len(wanted):
        raise ValueError(
            f"{len(candidates)} words are left to draw {len(wanted)} controls from; give more "
            "traces, or fewer words"
        )
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        if by in ("vocabulary", "emitted"):
            drawn = [str(w) for w in rng.choice(candidates, len(wanted), replace=False)]
        else:
            use = None if by == "frequency" else features[by]
            drawn = _draw_near(wanted, candidates, counts, use, rng)
        emitted, matched = (sum(counts.get(w, 0) for w in some) for some in (drawn, wanted))
        found.append(Control(tuple(drawn), by, emitted, matched))
    return found


def _describe(
    tokenizer, traces: Sequence[Trace], entropy: Sequence[Float[np.ndarray, "_"]] | None
) -> tuple[dict[str, int], dict[str, dict[str, float]]]:
    """Of every word written: its count, and its mean entropy and relative position."""
    strings = vocabulary(tokenizer)
    values: dict[str, dict[str, list[float]]] = {
        "position": defaultdict(list), "entropy": defaultdict(list),
    }  # fmt: skip
    for i, trace in enumerate(traces):
        for step, token in enumerate(trace.token_ids):
            word = word_of(strings[token])
            if word:
                values["position"][word].append(step / len(trace))
                if entropy is not None:
                    values["entropy"][word].append(float(entropy[i][step]))
    counts = {word: len(places) for word, places in values["position"].items()}
    means = {
        name: {word: float(np.mean(some)) for word, some in by_word.items()}
        for name, by_word in values.items()
    }
    return counts, means


def _draw_near(
    wanted: Sequence[str],
    candidates: Sequence[str],
    counts: Mapping[str, int],
    feature: Mapping[str, float] | None,
    rng: np.random.Generator,
) -> list[str]:
    left = list(candidates)
    spread = float(np.std(list(feature.values()))) if feature else 1.0
    drawn: dict[str, str] = {}
    for word in sorted(wanted, key=lambda w: (-counts.get(w, 0), w)):

        def distance(other: str, word: str = word) -> float:
            apart = abs(np.log2(counts[other] / max(counts.get(word, 0), 1)))
            if feature is not None and word in feature:
                apart += abs(feature[other] - feature[word]) / max(spread, 1e-12)
            return float(apart)

        near = sorted(left, key=lambda other: (distance(other), other))[:NEAREST]
        drawn[word] = near[int(rng.integers(len(near)))]
        left.remove(drawn[word])
    return [drawn[word] for word in wanted]
