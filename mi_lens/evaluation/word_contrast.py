"""Words that are more or less frequent in right traces than in wrong traces of the same problem.

Problems differ in their words and in difficulty, so right and wrong traces are compared within each
problem, which needs several samples per problem. A word that differs is associated with success;
`mi_lens.evaluation.critical_tokens` tests whether a token decides success.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mi_lens.common.statistics import Estimate, mean_interval
from mi_lens.evaluation.two_groups import permute_labels
from mi_lens.problems.grading.grader import grade
from mi_lens.traces.correctness import Labels, author_label
from mi_lens.traces.text_pieces import Unit, length_in, text_words
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary, word_of


@dataclass(frozen=True)
class WordRow:
    """One word.

    Attributes:
        word: The word without surrounding space and punctuation, case folded.
        right: Occurrences per token in right traces: mean over the traces of each problem, then
            over problems.
        wrong: The same in wrong traces.
        difference: right - wrong, with its interval over problems.
        p_value: Two-sided p-value of a test that permutes the labels of the traces within each
            problem.
        p_adjusted: The p-value against the most extreme of all words (Westfall and Young). It
            controls the probability of any false discovery, even if words are correlated.
    """

    word: str
    right: float
    wrong: float
    difference: Estimate
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class WordContrast:
    """Words in right traces, compared with those in wrong traces of the same problems.

    Attributes:
        rows: One row per word, the smallest p-value first.
        problems: Number of problems with both right and wrong traces.
        right: Number of right traces of these problems.
        wrong: Number of their wrong traces.
        left_out: Number of problems whose traces are all right or all wrong.
    """

    rows: tuple[WordRow, ...]
    problems: int
    right: int
    wrong: int
    left_out: int


def contrast_words(
    tokenizer,
    traces: Sequence[Trace],
    *,
    minimum_problems: int = 5,
    draws: int = 9999,
    seed: int = 0,
    labels: Labels = "grader",
) -> WordContrast:
    """Compares how often words are written in right and in wrong traces of the same problem.

    Rates are per token of the trace, since a longer trace has more of every word. So a word that
    each trace writes once, such as the word before the answer, has a lower rate in longer traces.
    Only words with at least one letter count.

    Args:
        tokenizer: The traces' tokenizer. None takes the words of their texts, for which text alone
            will do; rates are then per text piece (`text_pieces`).
        traces: Several sampled traces per problem, each with its problem.
        minimum_problems: A word counts if it occurs in the traces, right or wrong, of at least this
            many of the compared problems.
        draws: Number of permutations.
        seed: Seeds the permutations and the bootstrap.
        labels: "grader" grades the answers; "author" takes the authors' labels.

    Raises:
        ValueError: If a trace has no problem, nothing to grade it by, or no tokens; no problem has
            both right and wrong traces; or no word is common enough.
    """
    groups = _by_problem(traces, labels)
    if tokenizer is not None:
        for trace in traces:
            if not len(trace):
                raise ValueError(f"trace {trace.id} has no tokens; leave it out")
    mixed = [(samples, right) for samples, right in groups if 0 < right.sum() < len(right)]
    if not mixed:
        raise ValueError(
            f"none of {len(groups)} problems has both right and wrong traces; sample more traces "
            "of each, at a temperature above 0"
        )
    words, rates = _rates(tokenizer, [samples for samples, _ in mixed], minimum_problems)
    sides = [right for _, right in mixed]
    rows = _rows(words, rates, sides, draws, seed)
    return WordContrast(
        rows=tuple(sorted(rows, key=lambda row: (row.p_adjusted, row.p_value, row.word))),
        problems=len(mixed),
        right=int(sum(side.sum() for side in sides)),
        wrong=int(sum((~side).sum() for side in sides)),
        left_out=len(groups) - len(mixed),
    )


def _by_problem(
    traces: Sequence[Trace], labels: Labels
) -> list[tuple[list[Trace], Bool[np.ndarray, " _"]]]:
    """Every problem's traces, and which of them are right."""
    groups: dict[str, list[Trace]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for trace in traces:
        problem = trace.require_problem("to grade it by")
        key = problem.key
        groups[key].append(trace)
        correct = author_label(trace) if labels == "author" else grade(trace.text, problem).correct
        right[key].append(correct)
    return [(samples, np.array(right[key])) for key, samples in groups.items()]


def _rates(
    tokenizer, groups: Sequence[Sequence[Trace]], minimum_problems: int
) -> tuple[list[str], list[Float[np.ndarray, "_ word"]]]:
    """The words that occur in enough problems; and per problem, their rates in each trace."""
    counts = [[_words(tokenizer, trace) for trace in samples] for samples in groups]
    spread = Counter(word for of_problem in counts for word in set().union(*of_problem))
    words = sorted(word for word, problems in spread.items() if problems >= minimum_problems)
    if not words:
        raise ValueError(
            f"no word stands in traces of {minimum_problems} of the {len(groups)} problems with "
            "both right and wrong traces; give more problems, or lower minimum_problems"
        )
    unit: Unit = "text pieces" if tokenizer is None else "tokens"
    rates = [
        np.array([[count[word] for word in words] for count in of_problem], dtype=float)
        / np.array([[length_in(unit, trace)] for trace in samples])
        for of_problem, samples in zip(counts, groups, strict=True)
    ]
    return words, rates


def _rows(
    words: Sequence[str],
    rates: Sequence[Float[np.ndarray, "_ word"]],
    labels: Sequence[Bool[np.ndarray, " _"]],
    draws: int,
    seed: int,
) -> list[WordRow]:
    """Every word's rates in right and in wrong traces, compared."""
    right, wrong = (
        np.stack([rate[label == side].mean(0) for rate, label in zip(rates, labels, strict=True)])
        for side in (True, False)
    )
    differences = _estimates(right - wrong, seed)
    p_values, p_adjusted = permute_labels(rates, labels, draws, seed)
    return [
        WordRow(
            word=word,
            right=float(right[:, i].mean()),
            wrong=float(wrong[:, i].mean()),
            difference=differences[i],
            p_value=float(p_values[i]),
            p_adjusted=float(p_adjusted[i]),
        )
        for i, word in enumerate(words)
    ]


def _words(tokenizer, trace: Trace) -> Counter[str]:
    if tokenizer is None:
        return text_words(trace)
    strings = vocabulary(tokenizer)
    counts = Counter(word_of(strings[token]) for token in trace.token_ids)
    return Counter({w: n for w, n in counts.items() if any(map(str.isalpha, w))})


def _estimates(differences: Float[np.ndarray, "problem word"], seed: int) -> list[Estimate]:
    n, means = len(differences), differences.mean(0).tolist()
    if n < 2:
        return [Estimate(mean, None, None, n) for mean in means]
    low, high = mean_interval(differences, seed=seed).tolist()
    return [Estimate(*row, n) for row in zip(means, low, high, strict=True)]
