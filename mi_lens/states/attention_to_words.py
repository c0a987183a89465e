"""How much attention each head lets later tokens pay to the words of a set.

Attention decreases with distance, and it differs between readers, the tokens that attend.
Therefore each occurrence of a word is compared with two ordinary words, one shortly before it and
one shortly after it. The same readers are used for all three: the tokens after the last of them.

Two cautions apply. A head need not use what it attends to. And a head may attend to words at the
start of a thought because of their place; to exclude this, give other words of that place as
`controls`.
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

from mi_lens.common.progress import Progress
from mi_lens.common.resampling import resample
from mi_lens.common.statistics import Estimate, holm, sign_flip
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.states.segments import read_in_segments
from mi_lens.states.trace_batches import batches, read_ids, replay_of_batch
from mi_lens.traces.matched_words import as_frequent, count_words, is_ordinary
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import Words, vocabulary, word_ids, word_of

READERS = 128  # Readers per segment: memory holds one layer's pattern with this many rows.


@dataclass(frozen=True)
class Match:
    """An occurrence of a word and its two controls, as indices of generated tokens of a trace.

    Attributes:
        word: Index of the word of the set.
        before: Index of the nearest control before the word.
        after: Index of the nearest control after the word. The readers come after this index.
    """

    word: int
    before: int
    after: int


@dataclass(frozen=True, eq=False)
class AttentionTo:
    """Attention to the words of a set, divided by attention to their controls.

    Attributes:
        word: Mean attention weight that a later token gives to a word of the set.
        control: Mean attention weight that a later token gives to a control.
        ratio: word / control. It is 1 if the head attends to the words as to ordinary words.
        low: Lower end of the ratio's 95 % interval, from resampling problems.
        high: Upper end of the same interval.
        p_adjusted: Two-sided p-values of a sign-flip test over problems. The null hypothesis is
            that a head pays the same attention to words and controls. The values are adjusted for
            the number of heads (Holm).
        overall: The ratio after both weights are averaged over all heads.
        by_layer: For each layer, the ratio after both weights are averaged over the layer's heads.
        matches: Number of occurrences that have controls and readers.
        left_out: Number of occurrences that have no controls within reach, or no readers.
        traces: Number of traces with at least one match.
        controls: The words that served as controls, and how often each did.
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
    model: Model,
    traces: Sequence[Trace],
    words: Words,
    *,
    controls: Words | None = None,
    reach: int = 50,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> AttentionTo:
    """Compares the attention that later tokens pay to words of a set and to ordinary words.

    The weights are averaged over readers, then over the occurrences of a trace, then over the
    traces of a problem, then over problems.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: Finished traces with their problems.
        words: The set of words.
        controls: The words to compare with. If None, the controls of a word are the words of at
            least two letters that the traces write half as often to twice as often.
        reach: Largest distance, in tokens, between a word and its controls.
        batch_size: Number of traces that the model reads together.
        seed: Seed of the bootstrap and of the sign-flip test.
        progress: Whether to show the progress on stderr (`mi_lens.generate`).

    Raises:
        ValueError: If a trace has no problem, if controls and words overlap, or if fewer than two
            problems have an occurrence with controls and readers.
    """
    for trace in traces:
        trace.require_problem("that the intervals could resample")
    strings = vocabulary(model.tokenizer)
    chosen = word_ids(model, words)
    allowed = _controls(model, traces, chosen, controls, strings)
    matched = [_match(trace.require_steps().token_ids, chosen, allowed, reach) for trace in traces]
    useful = [pair for pair in zip(traces, matched, strict=True) if pair[1]]
    occurrences = sum(token in chosen for trace in traces for token in trace.token_ids)
    by_problem: dict[str, list[np.ndarray]] = defaultdict(list)
    with Progress(len(useful), "attention", "trace", progress) as bar:
        for places in batches([trace for trace, _ in useful], batch_size, "as generated"):
            batch = [useful[place] for place in places]
            for (trace, _), paid in zip(batch, attention_paid(model, batch), strict=True):
                assert trace.problem is not None
                of_match = torch.stack([paid[:, 0], paid[:, 1:].mean(1)])
                by_problem[trace.problem.key].append(of_match.mean(1).numpy())
            bar.update(len(batch))
    if len(by_problem) < 2:
        raise ValueError(
            f"the words occur {occurrences} times in {len(traces)} traces, but only "
            f"{len(by_problem)} problems have an occurrence with controls and readers; expected 2 "
            "or more: give more traces, a longer reach, or other controls"
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
    model: Model,
    traces: Sequence[Trace],
    chosen: frozenset[int],
    controls: Words | None,
    strings: Sequence[str],
) -> Mapping[int, Collection[int]]:
    """For every token of the set, the ids of the tokens that may be its controls."""
    if controls is not None:
        ids = word_ids(model, controls)
        if both := ids & chosen:
            raise ValueError(
                f"{strings[min(both)]!r} is of the words and of their controls; remove it from "
                "either"
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
    """The occurrences that have a control on both sides and a reader after both controls.

    Reader r attends to all tokens up to and including r. The last token is no reader, because the
    model emits it and never reads it.
    """
    matches, n_readers = [], len(token_ids) - 1
    for place in range(n_readers):
        if token_ids[place] not in chosen:
            continue
        wanted = allowed[token_ids[place]]
        before = range(place - 1, max(place - reach, 0) - 1, -1)
        after = range(place + 1, min(place + reach, n_readers - 2) + 1)
        nearest = [
            next((i for i in side if token_ids[i] in wanted), -1) for side in (before, after)
        ]
        if min(nearest) >= 0:
            matches.append(Match(place, *nearest))
    return matches


@torch.inference_mode()
def attention_paid(
    model: Model, matched: Sequence[tuple[Trace, Sequence[Match]]]
) -> list[Float[Tensor, "match place layer head"]]:
    """Mean weight that each match's readers give to its word and to its controls.

    The places are, in order: the word, the control before it, the control after it. Traces are read
    segment by segment; each layer's pattern of a segment is reduced at once and then dropped.
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

    replay = replay_of_batch(model, [trace for trace, _ in matched], "as generated")
    read_in_segments(model, sequences, hooks, length=READERS, replay=replay)
    total /= (width - 1 - columns[:, 2])[:, None, None, None]
    return list(total.split([len(matches) for _, matches in matched]))


def _add(pattern: Tensor, hook: Any, *, total, layer, rows, columns, start) -> None:
    """Adds the weights that a segment's readers give to the matches before them."""
    readers = start + torch.arange(pattern.shape[2])
    behind = readers > columns[:, 2:]
    reached = behind.any(1)
    if reached.any():
        # The dimensions of advanced indices around slices come first: (match, 3, head, reader).
        given = pattern[rows[reached, None], :, :, columns[reached]].cpu().double()
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
    """Percentiles of the ratio of means. Both means use the same draws of problems."""
    weights = resample(len(word), seed=seed)
    ratios = np.tensordot(weights, word, 1) / np.tensordot(weights, control, 1)
    return np.quantile(ratios, [0.025, 0.975], axis=0)
