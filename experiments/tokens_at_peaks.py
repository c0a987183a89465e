"""Which tokens stand at peaks, and which at other steps (paper 1).

python -m experiments.tokens_at_peaks
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIReadingStudy, fingerprint_of, saved_analysis, states_of
from experiments.study import save
from experiments.summaries import affine, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.readouts import Readout, decode_steps
from mi_lens.information.per_trace.thinking_tokens import (
    ThinkingTokens,
    TokenRow,
)
from mi_lens.report.plots.style import BLUE, COLOURS, GREY, ORANGE, PAGE, curve, dots, style
from mi_lens.traces.vocabulary import SCALING_WORDS, vocabulary, word_of

KINDS = ("thinking words", "other words", "numbers", "punctuation")
BINS = 10  # Bins of entropy.


@dataclass(frozen=True, kw_only=True)
class Config(MIReadingStudy):
    """What to run.

    Attributes:
        words: Thinking tokens. The default is paper 1's list for test-time scaling and similar
            words.
        top: Number of words shown, those most often at peaks.
    """

    words: tuple[str, ...] = (*SCALING_WORDS, "Hold", "Actually", "Alternatively")
    top: int = 12


@dataclass(frozen=True)
class Shares:
    """Shares of one kind of token, as means over problems.

    Attributes:
        peaks: Share among the peaks of a trace.
        entropy: Share among steps of like entropy.
        steps: Share among all steps of a trace.
        more: Share among peaks less share among steps of like entropy.
    """

    peaks: Estimate
    entropy: Estimate
    steps: Estimate
    more: Estimate


def main(config: Config) -> None:
    """Counts kinds of tokens for every readout and block, and names the words at the last block."""
    analysis = saved_analysis(config)
    model = mi_lens.load(config.model)
    strings = vocabulary(model.tokenizer)
    kind_of = np.array([kind(string, config.words) for string in strings])
    last = analysis.hook_names[-1]
    shares: dict[str, dict[str, dict[str, Shares]]] = {}
    tables: dict[str, ThinkingTokens] = {}
    for readout in get_args(Readout):
        shares[readout] = {}
        for name in analysis.hook_names:
            kinds = [
                kind_of[decode_steps(model, trace, readout, states)]
                for trace, states in zip(analysis.analysed, states_of(analysis, name), strict=True)
            ]
            shares[readout][name] = share(analysis, name, kinds)
        tables[readout] = mi_lens.thinking_tokens(
            model,
            analysis.analysed,
            [analysis.peaks(trace, last) for trace in analysis.analysed],
            readout=readout,
            states=states_of(analysis, last),
            seed=config.seed,
        )
    rows = tables["emitted"].rows[: config.top]
    print(table(shares, last))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(shares, last, rows, config.words),
        finding(shares["emitted"][last], tables["emitted"], config),
        {
            "shares": shares,
            "peaks": tables["emitted"].peaks,
            "words": {readout: tokens.rows[: config.top] for readout, tokens in tables.items()},
        },
    )


def kind(string: str, words: Sequence[str]) -> int:
    """The kind of a token, as an index of KINDS."""
    word = word_of(string)
    if word in {word_of(thinking) for thinking in words}:
        return 0
    return 3 if not word else 2 if any(map(str.isdigit, word)) else 1


def share(
    analysis: mi_lens.Analysis, hook_name: str, kinds: Sequence[np.ndarray]
) -> dict[str, Shares]:
    """Shares of each kind among peaks, among steps of like entropy, and among all steps."""
    measurements = [analysis.measurement(trace, hook_name) for trace in analysis.analysed]
    entropy = [measurement.covariates["entropy"] for measurement in measurements]
    edges = np.quantile(np.concatenate(entropy), np.arange(1, BINS) / BINS)
    bins = [np.searchsorted(edges, values) for values in entropy]
    all_bins, all_kinds = np.concatenate(bins), np.concatenate(kinds)
    shares = {}
    for number, name in enumerate(KINDS):
        hits = np.bincount(all_bins[all_kinds == number], minlength=BINS)
        rate = hits / np.maximum(np.bincount(all_bins, minlength=BINS), 1)
        rows = []
        for trace, trace_kinds, trace_bins in zip(analysis.analysed, kinds, bins, strict=True):
            peaks = analysis.peaks(trace, hook_name)
            if peaks:
                hit = trace_kinds == number
                rows.append((np.mean(hit[peaks]), rate[trace_bins[peaks]].mean(), np.mean(hit)))
        at_peaks, alike, everywhere = np.array(rows).reshape(-1, 3).T
        values = (at_peaks, alike, everywhere, at_peaks - alike)
        shares[name] = Shares(*(estimate_mean(by_trace.tolist()) for by_trace in values))
    return shares


def table(shares: Mapping[str, Mapping[str, Mapping[str, Shares]]], last: str) -> str:
    """Shares at the last block, as a text table."""
    lines = [f"{'% at ' + last:<30}{'peaks':>22}{'like entropy':>22}{'all steps':>22}"]
    for readout, by_block in shares.items():
        for name, of_kind in by_block[last].items():
            estimates = (of_kind.peaks, of_kind.entropy, of_kind.steps)
            cells = "".join(f"{with_interval(estimate, 100):>22}" for estimate in estimates)
            lines.append(f"{readout + ', ' + name:<30}{cells}")
    return "\n".join(lines)


def draw(
    shares: Mapping[str, Mapping[str, Mapping[str, Shares]]],
    last: str,
    rows: Sequence[TokenRow],
    words: Sequence[str],
) -> Figure:
    """Kinds of tokens at peaks, thinking words by block, and words with their lift."""
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, max(2.4, 0.15 * len(rows) + 0.9)), width_ratios=(1.1, 1, 1)
        )
        of_kinds = [shares["emitted"][last][name] for name in KINDS]
        marks = (
            ("peaks", BLUE, "o", "at peaks"),
            ("entropy", ORANGE, "D", "at like entropy"),
            ("steps", GREY, "s", "at all steps"),
        )
        for shift, (field, colour, marker, label) in zip((-0.22, 0.0, 0.22), marks, strict=True):
            estimates = [getattr(of_kind, field) for of_kind in of_kinds]
            dots(left, estimates, colour, scale=100, shift=shift, markers=marker, label=label)
        left.set_yticks(range(len(KINDS)), KINDS)
        left.set_ylim(len(KINDS) - 0.5, -0.5)
        left.set_xlim(left=0)
        left.set_xlabel("% of emitted tokens (95 %)")
        for colour, (readout, by_block) in zip(COLOURS, shares.items(), strict=False):
            estimates = [by_kind["thinking words"].more for by_kind in by_block.values()]
            blocks, label = range(len(estimates)), readout.replace("_", " ")
            curve(middle, blocks, estimates, colour, label, scale=100, marker="o")
        middle.axhline(0, color="black", linewidth=0.5)
        middle.set_xlabel("block")
        middle.set_ylabel("thinking words: at peaks less\nat like entropy (points, 95 %)")
        middle.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (left, middle):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        _draw_lifts(right, rows, {word_of(word) for word in words})
    return figure


def _draw_lifts(axes: Axes, rows: Sequence[TokenRow], thinking: set[str]) -> None:
    colours = [BLUE if word_of(row.word) in thinking else GREY for row in rows]
    lifts = [Estimate(row.lift, row.lift_low, row.lift_high, row.peak_count) for row in rows]
    labels = [f"{row.word} ({row.peak_count})" for row in rows]
    dots(axes, lifts, colours)
    axes.axvline(1, color="black", linewidth=0.5)
    axes.set_yticks(range(len(rows)), labels, parse_math=False)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_xlabel("lift of a word (95 %)")


def finding(by_kind: Mapping[str, Shares], table: ThinkingTokens, config: Config) -> Finding:
    """Whether thinking words are the commonest kind at peaks, and more common than elsewhere."""
    thinking = by_kind["thinking words"]
    if thinking.peaks.mean is None:
        raise ValueError("no trace has a peak, so nothing stands there; raise limit")
    commonest = max(KINDS, key=lambda name: by_kind[name].peaks.mean or 0.0)
    words = {word_of(word) for word in config.words}
    rows = [row for row in table.rows if word_of(row.word) in words]
    lifted = [row.word for row in rows if row.lifted]
    return Finding(
        about="paper 1, figure of tokens at peaks; criticism: entropy",
        claim="Thinking tokens (So, Hmm, Wait, ...) dominate the tokens at MI peaks.",
        tests=(
            ClaimTest(
                "share of peaks at thinking words, less one half",
                affine(thinking.peaks, 100, -50),
                0.0,
                "points",
            ),
            ClaimTest(
                "share of peaks at thinking words, less that of steps of like entropy",
                affine(thinking.more, 100),
                1.0,
                "points",
            ),
        ),
        text=f"Of the peaks at the last block {with_interval(thinking.peaks, 100)} % write a "
        f"thinking word, of steps of like entropy {with_interval(thinking.entropy, 100)} %, of all "
        f"steps {with_interval(thinking.steps, 100)} %. The commonest kind is {commonest} "
        f"({with_interval(by_kind[commonest].peaks, 100)} %), and of {len(rows)} thinking words at "
        f"peaks {len(lifted)} stand there more often than their frequency "
        f"gives{' (' + ', '.join(lifted) + ')' if lifted else ''}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
