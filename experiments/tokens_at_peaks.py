"""What stands at the peaks, and what stands at as many other steps (paper 1).

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
from experiments.study import Finding, Study, analysis, said, save, side, states_of
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.readouts import Readout, decode_steps
from mi_lens.information.per_trace.thinking_tokens import (
    ThinkingTokens,
    TokenRow,
)
from mi_lens.report.plots.style import BLUE, COLOURS, GREY, ORANGE, PAGE, curve, dots, style
from mi_lens.traces.vocabulary import SCALING_WORDS, vocabulary, word_of

KINDS = ("thinking words", "other words", "numbers", "punctuation")
BINS = 10  # Of entropy.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking tokens: paper 1's list for test-time scaling, and words like them.
        top: Words shown, those most often at peaks.
    """

    words: tuple[str, ...] = (*SCALING_WORDS, "Hold", "Actually", "Alternatively")
    top: int = 12


@dataclass(frozen=True)
class Shares:
    """How many of the peaks are of a kind, over problems.

    Attributes:
        peaks: Share of a trace's peaks.
        entropy: Share expected of steps of like entropy.
        steps: Share of all its steps.
        more: Share of peaks less that of steps of like entropy.
    """

    peaks: Estimate
    entropy: Estimate
    steps: Estimate
    more: Estimate


def main(config: Config) -> None:
    """Counts kinds of tokens for every readout and block; names the words at the last."""
    found = analysis(config)
    model = mi_lens.load(config.model)
    strings = vocabulary(model.tokenizer)
    kind_of = np.array([kind(string, config.words) for string in strings])
    last = found.hook_names[-1]
    shares: dict[str, dict[str, dict[str, Shares]]] = {}
    tables: dict[str, ThinkingTokens] = {}
    for readout in get_args(Readout):
        shares[readout] = {}
        for name in found.hook_names:
            pairs = zip(found.analysed, states_of(found, name), strict=True)
            tokens = [decode_steps(model, trace, readout, state) for trace, state in pairs]
            shares[readout][name] = share(found, name, [kind_of[some] for some in tokens])
        tables[readout] = mi_lens.thinking_tokens(
            model, found.analysed, [found.peaks(trace, last) for trace in found.analysed],
            readout=readout, states=states_of(found, last), seed=config.seed,
        )  # fmt: skip
    rows = tables["emitted"].rows[: config.top]
    print(table(shares, last))
    save(
        config, {config.model: found.traces[0].model}, draw(shares, last, rows, config.words),
        finding(shares["emitted"][last], tables["emitted"], config),
        {
            "shares": shares, "peaks": tables["emitted"].peaks,
            "words": {name: one.rows[: config.top] for name, one in tables.items()},
        },
    )  # fmt: skip


def kind(string: str, words: Sequence[str]) -> int:
    """Which of KINDS a token is."""
    word = word_of(string)
    if word in {word_of(one) for one in words}:
        return 0
    return 3 if not word else 2 if any(map(str.isdigit, word)) else 1


def share(
    found: mi_lens.Analysis, hook_name: str, kinds: Sequence[np.ndarray]
) -> dict[str, Shares]:
    """The share of each kind at peaks, beside steps of like entropy and all steps."""
    measurements = [found.measurement(trace, hook_name) for trace in found.analysed]
    entropy = [measurement.covariates["entropy"] for measurement in measurements]
    edges = np.quantile(np.concatenate(entropy), np.arange(1, BINS) / BINS)
    bins = [np.searchsorted(edges, values) for values in entropy]
    all_bins, all_kinds = np.concatenate(bins), np.concatenate(kinds)
    shares = {}
    for number, name in enumerate(KINDS):
        hits = np.bincount(all_bins[all_kinds == number], minlength=BINS)
        rate = hits / np.maximum(np.bincount(all_bins, minlength=BINS), 1)
        rows = []
        for trace, own, of in zip(found.analysed, kinds, bins, strict=True):
            peaks = found.peaks(trace, hook_name)
            if peaks:
                rows.append((np.mean(own[peaks] == number), rate[of[peaks]].mean(),
                             np.mean(own == number)))  # fmt: skip
        at_peaks, alike, everywhere = np.array(rows).reshape(-1, 3).T
        values = (at_peaks, alike, everywhere, at_peaks - alike)
        shares[name] = Shares(*(estimate_mean(some.tolist()) for some in values))
    return shares


def table(shares: Mapping[str, Mapping[str, Mapping[str, Shares]]], last: str) -> str:
    """Shares at the last block as text."""
    lines = [f"{'% at ' + last:<30}{'peaks':>22}{'like entropy':>22}{'all steps':>22}"]
    for readout, by_block in shares.items():
        for name, one in by_block[last].items():
            cells = "".join(f"{said(e, 100):>22}" for e in (one.peaks, one.entropy, one.steps))
            lines.append(f"{readout + ', ' + name:<30}{cells}")
    return "\n".join(lines)


def draw(
    shares: Mapping[str, Mapping[str, Mapping[str, Shares]]],
    last: str,
    rows: Sequence[TokenRow],
    words: Sequence[str],
) -> Figure:
    """Kinds at peaks; thinking words against the block; words with their lift."""
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, max(2.4, 0.15 * len(rows) + 0.9)), width_ratios=(1.1, 1, 1)
        )
        of_kinds = [shares["emitted"][last][name] for name in KINDS]
        marks = (
            ("peaks", BLUE, "o", "at peaks"), ("entropy", ORANGE, "D", "at like entropy"),
            ("steps", GREY, "s", "at all steps"),
        )  # fmt: skip
        for shift, (field, colour, marker, label) in zip((-0.22, 0.0, 0.22), marks, strict=True):
            estimates = [getattr(one, field) for one in of_kinds]
            dots(left, estimates, colour, scale=100, shift=shift, markers=marker, label=label)
        left.set_yticks(range(len(KINDS)), KINDS)
        left.set_ylim(len(KINDS) - 0.5, -0.5)
        left.set_xlim(left=0)
        left.set_xlabel("% of emitted tokens (95 %)")
        for colour, (readout, by_block) in zip(COLOURS, shares.items(), strict=False):
            some = [one["thinking words"].more for one in by_block.values()]
            label = readout.replace("_", " ")
            curve(middle, range(len(some)), some, colour, label, scale=100, marker="o")
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
    dots(axes, [Estimate(r.lift, r.lift_low, r.lift_high, r.peak_count) for r in rows], colours)
    axes.axvline(1, color="black", linewidth=0.5)
    axes.set_yticks(range(len(rows)), [f"{r.word} ({r.peak_count})" for r in rows],
                    parse_math=False)  # fmt: skip
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_xlabel("lift of a word (95 %)")


def finding(of: Mapping[str, Shares], table: ThinkingTokens, config: Config) -> Finding:
    """Whether thinking words are the commonest kind at peaks, and commoner than elsewhere."""
    thinking = of["thinking words"]
    if thinking.peaks.mean is None:
        raise ValueError("no trace has a peak, so nothing stands there; raise limit")
    commonest = max(KINDS, key=lambda name: of[name].peaks.mean or 0.0)
    dominate, more = commonest == "thinking words", side(thinking.more) > 0
    wanted = {word_of(word) for word in config.words}
    rows = [row for row in table.rows if word_of(row.word) in wanted]
    lifted = [row.word for row in rows if row.lifted]
    return Finding(
        about="paper 1, figure of tokens at peaks; criticism: entropy",
        claim="Thinking tokens (So, Hmm, Wait, ...) dominate the tokens at MI peaks.",
        verdict="with" if dominate and more else "in part" if dominate or more else "against",
        text=f"Of the peaks at the last block {said(thinking.peaks, 100)} % write a thinking "
        f"word, of steps of like entropy {said(thinking.entropy, 100)} %, of all steps "
        f"{said(thinking.steps, 100)} %. The commonest kind is "
        f"{commonest} ({said(of[commonest].peaks, 100)} %), and of {len(rows)} thinking words at "
        f"peaks {len(lifted)} stand there more often than their frequency gives"
        f"{' (' + ', '.join(lifted) + ')' if lifted else ''}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
