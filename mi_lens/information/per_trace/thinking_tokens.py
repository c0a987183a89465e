"""Thinking tokens: the words to which peaks decode, and how often they occur at other steps."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.html import table, with_interval
from mi_lens.common.records import write_record
from mi_lens.common.resampling import resample
from mi_lens.information.per_trace.readouts import Readout, decode_steps
from mi_lens.models.model import Model
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import TokenSet, vocabulary, word_of

SHOWN = 15  # Number of words in a notebook's table.


@dataclass(frozen=True)
class TokenRow:
    """The counts of a word at the peaks.

    Attributes:
        word: The word's most frequent spelling, without surrounding space and punctuation.
        variants: A mapping from each token string that writes the word to its count at peaks.
        token_ids: The token ids of the variants.
        peak_count: Number of peaks that decode to the word.
        step_count: Number of steps that decode to the word, peaks included.
        peak_rate: The word's share of all peaks.
        step_rate: The word's share of all steps, which is its base rate.
        lift: peak_rate / step_rate. It is 1 if the word is as frequent at peaks as at all steps.
        lift_low: Lower end of the lift's interval, from resampling traces. None if there is no
            interval.
        lift_high: Upper end of the same interval, or None.
    """

    word: str
    variants: dict[str, int]
    token_ids: tuple[int, ...]
    peak_count: int
    step_count: int
    peak_rate: float
    step_rate: float
    lift: float
    lift_low: float | None
    lift_high: float | None

    @property
    def lifted(self) -> bool:
        """Whether the word is more frequent at peaks than at all steps, beyond chance."""
        return self.lift_low is not None and self.lift_low > 1


@dataclass(frozen=True)
class ThinkingTokens:
    """The words to which peaks decode, most frequent first.

    Attributes:
        readout: How a step decodes to a token, see `decode_steps`.
        rows: One row per word.
        peaks: Number of peaks, including those that are filtered out of `rows`.
        filtered: Number of peaks that decode to punctuation, single characters or special tokens.
        steps: Number of steps.
        traces: Number of traces.
        confidence: Confidence level of the intervals.
    """

    readout: Readout
    rows: tuple[TokenRow, ...]
    peaks: int
    filtered: int
    steps: int
    traces: int
    confidence: float

    def __repr__(self) -> str:
        most = ", ".join(f"{row.word[:20]!r} {row.peak_count}" for row in self.rows[:5])
        return (
            f"ThinkingTokens({self.readout}: {self.peaks:,} peaks of {self.steps:,} steps in "
            f"{self.traces:,} traces, {len(self.rows):,} words: {most})"
        )

    def token_set(self, tokenizer, top: int = 10) -> TokenSet:
        """The `top` most frequent words with every surface variant in the vocabulary."""
        return TokenSet.of(tokenizer, [row.word for row in self.rows[:top]])

    def save(self, path: str | Path) -> None:
        """Writes the table as JSON."""
        write_record(path, asdict(self))

    def _repr_html_(self) -> str:
        rows = [
            (
                row.word,
                " ".join(f"{string!r}" for string in row.variants),
                row.peak_count,
                row.step_count,
                row.peak_rate,
                row.step_rate,
                with_interval(row.lift, row.lift_low, row.lift_high),
            )
            for row in self.rows[:SHOWN]
        ]
        columns = ("word", "written", "at peaks", "at steps", "share of peaks", "share of steps")
        header = (*columns, f"lift ({100 * self.confidence:g} % interval)")
        caption = (
            f"{self.peaks:,} peaks among {self.steps:,} steps of {self.traces:,} traces; "
            f"{self.filtered:,} decode to no word. {len(rows)} of {len(self.rows)} words shown"
        )
        return table(rows, header, caption)


def thinking_tokens(
    model: Model,
    traces: Sequence[Trace],
    peaks: Sequence[Sequence[int] | Int[np.ndarray, "_"]],
    *,
    readout: Readout = "emitted",
    states: Sequence[Float[Tensor, "_ d"]] | None = None,
    min_characters: int = 2,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> ThinkingTokens:
    """Counts the words at peaks, and compares their frequency there with that at all steps.

    The intervals are percentiles of a bootstrap over traces, because the steps of a trace depend on
    each other. With a single trace there are no intervals.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        traces: The traces.
        peaks: The peaks of every trace, as `find_peaks` returns them.
        readout: How a step decodes to a token, see `decode_steps`.
        states: The states of every trace at one hook name, each of shape (step, d). Only
            "logit_lens" needs them.
        min_characters: Smallest number of characters of a word. Shorter words and punctuation are
            filtered out. 1 keeps "I".
        confidence: Confidence level of the intervals.
        draws: Number of draws of the bootstrap.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If there are no traces, if the numbers of traces, peaks and states differ, or if
            a peak lies outside its trace.
    """
    if not traces:
        raise ValueError("no traces; expected at least one")
    if len(peaks) != len(traces) or (states is not None and len(states) != len(traces)):
        raise ValueError(
            f"{len(traces)} traces with {len(peaks)} lists of peaks and "
            f"{'no' if states is None else len(states)} states; expected one of each per trace"
        )
    strings = vocabulary(model.tokenizer)
    counts = _Counts()
    for i, (trace, steps) in enumerate(zip(traces, peaks, strict=True)):
        tokens = decode_steps(model, trace, readout, None if states is None else states[i])
        counts.add(trace, tokens, strings, steps)
    words = sorted(
        (word for word in counts.variants if len(word) >= min_characters),
        key=lambda word: (-counts.variants[word].total(), word),
    )
    intervals = _lift_intervals(counts, words, confidence, draws, seed)
    rows = tuple(
        _row(word, counts, strings, low, high)
        for word, (low, high) in zip(words, intervals, strict=True)
    )
    return ThinkingTokens(
        readout=readout,
        rows=rows,
        peaks=counts.peaks,
        filtered=counts.peaks - sum(row.peak_count for row in rows),
        steps=counts.steps,
        traces=len(traces),
        confidence=confidence,
    )


@dataclass
class _Counts:
    """How often words occur at peaks and at all steps.

    Attributes:
        at_peaks: For each trace, the number of peaks of each word.
        at_steps: For each trace, the number of steps of each word.
        variants: For each word, the counts of the tokens that write it at peaks, over all traces.
    """

    at_peaks: list[Counter[str]] = field(default_factory=list)
    at_steps: list[Counter[str]] = field(default_factory=list)
    variants: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def peaks(self) -> int:
        return sum(counter.total() for counter in self.at_peaks)

    @property
    def steps(self) -> int:
        return sum(counter.total() for counter in self.at_steps)

    def add(
        self,
        trace: Trace,
        tokens: Sequence[int],
        strings: Sequence[str],
        peaks: Sequence[int] | Int[np.ndarray, "_"],
    ) -> None:
        """Adds the counts of a trace whose steps decode to these tokens."""
        words = [word_of(strings[token]) if token < len(strings) else "" for token in tokens]
        chosen = sorted({int(step) for step in peaks})
        if chosen and not 0 <= chosen[0] <= chosen[-1] < len(words):
            raise ValueError(
                f"trace {trace.id} has {len(words)} steps and a peak at "
                f"{chosen[-1] if chosen[-1] >= len(words) else chosen[0]}; expected peaks of this "
                "trace"
            )
        self.at_steps.append(Counter(words))
        self.at_peaks.append(Counter(words[step] for step in chosen))
        for step in chosen:
            self.variants[words[step]][tokens[step]] += 1


def _row(
    word: str, counts: _Counts, strings: Sequence[str], low: float | None, high: float | None
) -> TokenRow:
    peak_count = counts.variants[word].total()
    step_count = sum(counter[word] for counter in counts.at_steps)
    peak_rate, step_rate = peak_count / counts.peaks, step_count / counts.steps
    ranked = counts.variants[word].most_common()
    written: Counter[str] = Counter()  # Two tokens may write the same string.
    for token, count in ranked:
        written[strings[token]] += count
    return TokenRow(
        word=_bare(strings[ranked[0][0]]),
        variants=dict(written),
        token_ids=tuple(token for token, _ in ranked),
        peak_count=peak_count,
        step_count=step_count,
        peak_rate=peak_rate,
        step_rate=step_rate,
        lift=peak_rate / step_rate,
        lift_low=low,
        lift_high=high,
    )


def _bare(string: str) -> str:
    """A token string without the space and punctuation around its word."""
    inside = [i for i, c in enumerate(string) if c.isalnum()]
    return string[inside[0] : inside[-1] + 1]


def _lift_intervals(
    counts: _Counts, words: Sequence[str], confidence: float, draws: int, seed: int
) -> list[tuple[float | None, float | None]]:
    """The ends of each word's interval, or None if fewer than two traces contain the word."""
    n = len(counts.at_steps)
    if n < 2 or not words:
        return [(None, None)] * len(words)
    weights = resample(n, draws, seed)

    def rates(counters: Sequence[Counter[str]]) -> Float[np.ndarray, "draw word"]:
        of_words = weights @ np.array([[counter[word] for word in words] for counter in counters])
        return of_words / (weights @ np.array([counter.total() for counter in counters]))[:, None]

    # In a draw without the word, or without peaks, the lift is undefined.
    with np.errstate(invalid="ignore", divide="ignore"):
        lifts = rates(counts.at_peaks) / rates(counts.at_steps)
    tail = (1 - confidence) / 2
    ends = np.nanquantile(lifts, [tail, 1 - tail], axis=0).T.tolist()
    # If only one trace contains a word, an interval over traces means nothing.
    spread = [sum(word in counter for counter in counts.at_steps) >= 2 for word in words]
    return [
        (low, high) if varies else (None, None)
        for varies, (low, high) in zip(spread, ends, strict=True)
    ]
