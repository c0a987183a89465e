"""How much attention later tokens pay to the words of a set, head by head.

Attention falls with distance and differs from reader to reader. So each occurrence of a word is set
beside two ordinary words, one shortly before and one shortly after it, under the same readers: the
tokens behind all three. What a head attends to it need not use, and words at the start of a thought
may be attended to for their place: compare with other words of that place (`controls`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mi_lens.common.resampling import resample
from mi_lens.common.statistics import Estimate, holm, sign_flip
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.states.segments import read_ids, read_in_segments
from mi_lens.traces.matched_words import as_frequent, count_words, is_ordinary
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, vocabulary, word_ids, word_of

READERS = 128  # Read at once: one layer's pattern of so many rows stands in memory.


@dataclass(frozen=True)
class Match:
    """An occurrence of a word and its controls, as generated-token indices of one trace.

    Attributes:
        word: Where a word of the set stands.
        before: The nearest control before it.
        after: The nearest control after it; readers come after this.
    """

    word: int
    before: int
    after: int


@dataclass(frozen=True, eq=False)
class AttentionTo:
    """Attention to words of a set over attention to their controls.

    Attributes:
        word: Mean attention weight that a later token gives to a word of the set.
        control: Mean weight that it gives to a control.
        ratio: word / control; 1 where the word is as ordinary words are.
        low: Lower end of the ratio's 95 % interval, resampling problems.
        high: Upper end.
        p_adjusted: Two-sided, that both are paid the same (signs of the problems' differences drawn
            anew), adjusted for the number of heads (Holm).
        overall: The ratio with both averaged over all heads.
        by_layer: The ratio with both averaged over a layer's heads.
        matches: Occurrences with controls.
        left_out: Occurrences without controls near enough, or without readers.
        traces: Traces that have such occurrences.
        controls: Words that served as controls, with how often they did.
    """

    word: Float[np.ndarray, "layer head"]
    control: Float[np.ndarray, "layer head"]
    ratio: Float[np.ndarray, "layer head"]
    low: Float[np.ndarray, "layer head"]
    high: Float[np.ndarray, "layer head"]
    p_adjusted: Float[np.ndarray, "layer head"]
    overall: Estimate
    by_layer: tuple[Estimate, ...]
    matches: int
    left_out: int
    traces: int
    controls: dict[str, int]


def attention_to_words(
    model,
    traces: Sequence[Trace],
    words: Words,
    *,
    controls: Words | None = None,
    reach: int = 50,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> AttentionTo:
    """Compares the attention that later tokens pay to words with that to ordinary words.

    Averages over readers, then occurrences of a trace, then traces of a problem, then problems.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems.
        words: The set.
        controls: What to compare with; if None, for each word the words of at least two letters
            that the traces write half to twice as often.
        reach: How far, in tokens, controls may lie from their word.
        batch_size: Traces read together.
        seed: Of the bootstrap and the signs.
        progress: Shows a bar on a terminal's stderr.

    Raises:
        ValueError: If a trace has no problem, controls and words overlap, or fewer than two
            problems have an occurrence with controls and readers.
    """
    for trace in traces:
        trace.require_problem("for intervals to be over")
    strings = vocabulary(model.tokenizer)
    chosen = word_ids(model, words)
    allowed = _controls(model, traces, chosen, controls, strings)
    matched = [_match(trace.token_ids, chosen, allowed, reach) for trace in traces]
    useful = [pair for pair in zip(traces, matched, strict=True) if pair[1]]
    occurrences = sum(token in chosen for trace in traces for token in trace.token_ids)
    by_problem: dict[str, list[np.ndarray]] = defaultdict(list)
    with tqdm(
        total=len(useful), desc="attention", unit="trace", disable=None if progress else True
    ) as bar:
        for start in range(0, len(useful), batch_size):
            batch = useful[start : start + batch_size]
            for (trace, _), paid in zip(batch, attention_paid(model, batch), strict=True):
                assert trace.problem is not None
                of_match = torch.stack([paid[:, 0], paid[:, 1:].mean(1)])
                by_problem[trace.problem.key].append(of_match.mean(1).numpy())
            bar.update(len(batch))
    if len(by_problem) < 2:
        raise ValueError(
            f"{occurrences} occurrences of the words in {len(traces)} traces, with controls and "
            f"readers in {len(by_problem)} problems; expected 2 or more: give more traces, a "
            "longer reach, or other controls"
        )
    means = np.stack([np.mean(weights, axis=0) for weights in by_problem.values()])
    total = sum(map(len, matched))
    served = Counter(
        word_of(strings[trace.token_ids[place]])
        for trace, matches_of_trace in useful
        for match in matches_of_trace
        for place in (match.before, match.after)
    )
    return AttentionTo(
        **_compare(means[:, 0], means[:, 1], seed),
        matches=total,
        left_out=occurrences - total,
        traces=len(useful),
        controls=dict(served.most_common()),
    )


def _controls(
    model,
    traces: Sequence[Trace],
    chosen: frozenset[int],
    controls: Words | None,
    strings: Sequence[str],
) -> Mapping[int, Collection[int]]:
    """For every token of the set, the tokens that may be its controls."""
    if controls is not None:
        ids = word_ids(model, controls)
        if both := ids & chosen:
            raise ValueError(
                f"{strings[min(both)]!r} is of the words and of their controls; expected others"
            )
        return dict.fromkeys(chosen, ids)
    counts = count_words(model.tokenizer, traces)
    own = {word_of(strings[token]) for token in chosen}
    ordinary = [
        word
        for word in counts
        if word not in own and is_ordinary(word, letters=2, beside="nothing")
    ]
    near = {word: as_frequent(word, ordinary, counts) for word in own}
    of_word = defaultdict(set)
    for token, string in enumerate(strings):
        of_word[word_of(string)].add(token)
    return {
        token: set().union(*(of_word[w] for w in near[word_of(strings[token])])) for token in chosen
    }


def _match(
    token_ids: Sequence[int],
    chosen: frozenset[int],
    allowed: Mapping[int, Collection[int]],
    reach: int,
) -> list[Match]:
    """Occurrences with a control on both sides and a reader behind; the last token reads nothing.

    Reader r reads what stands before and at r, and r < len(token_ids) - 1.
    """
    matches, read = [], len(token_ids) - 1
    for place in range(read):
        if token_ids[place] not in chosen:
            continue
        wanted = allowed[token_ids[place]]
        before = range(place - 1, max(place - reach, 0) - 1, -1)
        after = range(place + 1, min(place + reach, read - 2) + 1)
        nearest = [
            next((i for i in side if token_ids[i] in wanted), -1) for side in (before, after)
        ]
        if min(nearest) >= 0:
            matches.append(Match(place, *nearest))
    return matches


@torch.inference_mode()
def attention_paid(
    model, matched: Sequence[tuple[Trace, Sequence[Match]]]
) -> list[Float[Tensor, "match place layer head"]]:
    """Mean weight that each match's readers give to its word, and to its controls before and after.

    Traces are read segment by segment through the cache. Each layer's pattern of a segment is
    reduced as it passes; none is kept.
    """
    n_layers = model.cfg.n_layers
    names = resolve_hook_names(model, [f"blocks.{n}.attn.hook_pattern" for n in range(n_layers)])
    sequences = [read_ids(trace) for trace, _ in matched]
    width = max(map(len, sequences))
    # The column of a trace's first generated token.
    firsts = [width - len(trace) + 1 for trace, _ in matched]
    rows = torch.tensor([row for row, (_, matches) in enumerate(matched) for _ in matches])
    columns = torch.tensor(
        [
            [first + place for place in (match.word, match.before, match.after)]
            for first, (_, matches) in zip(firsts, matched, strict=True)
            for match in matches
        ]
    )
    total = torch.zeros(len(rows), 3, n_layers, model.cfg.n_heads, dtype=torch.float64)

    def hooks(start: int, stop: int) -> list[tuple[str, Callable[..., None]]]:
        add = partial(_add, total=total, rows=rows, columns=columns, start=start)
        return [(name, partial(add, layer=layer)) for layer, name in enumerate(names)]

    read_in_segments(model, sequences, hooks, length=READERS)
    total /= (width - 1 - columns[:, 2])[:, None, None, None]
    return list(total.split([len(matches) for _, matches in matched]))


def _add(pattern: Tensor, hook: Any, *, total, layer, rows, columns, start) -> None:
    """Adds what the readers of a segment give, to the matches that they stand behind."""
    readers = start + torch.arange(pattern.shape[2])
    behind = readers > columns[:, 2:]
    reached = behind.any(1)
    if reached.any():
        # Advanced indices around slices come first: (match, 3, head, reader).
        given = pattern[rows[reached, None], :, :, columns[reached]].to("cpu", torch.float64)
        total[reached, :, layer] += (given * behind[reached, None, None]).sum(-1)


def _compare(
    word: Float[np.ndarray, "problem layer head"],
    control: Float[np.ndarray, "problem layer head"],
    seed: int,
) -> dict[str, Any]:
    n, n_layers, n_heads = word.shape
    differences = (word - control).reshape(n, -1).T
    heads = [sign_flip(of_head.tolist(), seed=seed) for of_head in differences]
    low, high = _ratio_interval(word, control, seed)
    return {
        "word": word.mean(0),
        "control": control.mean(0),
        "ratio": word.mean(0) / control.mean(0),
        "low": low,
        "high": high,
        "p_adjusted": np.reshape(holm(heads), (n_layers, n_heads)),
        "overall": _ratio(word.mean((1, 2)), control.mean((1, 2)), seed),
        "by_layer": tuple(
            _ratio(word[:, layer].mean(1), control[:, layer].mean(1), seed)
            for layer in range(n_layers)
        ),
    }


def _ratio(
    word: Float[np.ndarray, " problem"], control: Float[np.ndarray, " problem"], seed: int
) -> Estimate:
    low, high = _ratio_interval(word, control, seed)
    return Estimate(float(word.mean() / control.mean()), float(low), float(high), len(word))


def _ratio_interval(
    word: Float[np.ndarray, "problem *head"], control: Float[np.ndarray, "problem *head"], seed: int
) -> Float[np.ndarray, "2 *head"]:
    """Percentiles of the ratio of means, over the same draws of problems for both."""
    weights = resample(len(word), seed=seed)
    ratios = np.tensordot(weights, word, 1) / np.tensordot(weights, control, 1)
    return np.quantile(ratios, [0.025, 0.975], axis=0)
