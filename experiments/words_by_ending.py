"""Which tokens stand at peaks when the same answer ends otherwise.

python -m experiments.words_by_ending
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import Finding, half_shared
from experiments.mi_study import ReadingStudy, fingerprint_of, saved_analysis
from experiments.study import save
from experiments.summaries import with_interval
from mi_lens.common.resampling import percentiles, resample
from mi_lens.common.statistics import Estimate
from mi_lens.report.plots.style import PAGE, printable, style
from mi_lens.traces.vocabulary import word_of

MARKUP = re.compile(r"<[^\s<>]+>")  # As <|im_end|>, which is no word.
Counts = Sequence[Counter[str]]  # What stands at the peaks of each trace.


@dataclass(frozen=True, kw_only=True)
class Config(ReadingStudy):
    """What to run.

    Attributes:
        top: Number of words shown, those most often at peaks under any ending.
    """

    top: int = 14


def main(config: Config) -> None:
    """Counts the words at the peaks under every ending, at the last block."""
    analysis = saved_analysis(config)
    last = analysis.hook_names[-1]
    by_ending = {ending: at_peaks(analysis, last, ending) for ending in endings(analysis, last)}
    own = by_ending["as_written"]
    alike = {
        ending: likeness(own, counts, config.seed)
        for ending, counts in by_ending.items()
        if counts != own  # As with a full stop, where the text as it is ends with one.
    }
    shares = {ending: shares_of(counts) for ending, counts in by_ending.items()}
    for ending, of_words in shares.items():
        first = sorted(of_words, key=lambda word: -of_words[word])[:8]
        told = ", ".join(f"{word} {100 * of_words[word]:.0f} %" for word in first)
        print(
            f"{ending:<12}{with_interval(alike[ending], 100) if ending in alike else '':<24}{told}"
        )
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(shares, alike, config.top),
        finding(shares, alike, last),
        {"hook_name": last, "shares of words at peaks": shares, "alike": alike},
    )


def endings(analysis: mi_lens.Analysis, hook_name: str) -> list[str]:
    """The endings that the answer of every trace can have."""
    every = [analysis.measurement(trace, hook_name).endings for trace in analysis.analysed]
    return [ending for ending in every[0] if all(ending in of_trace for of_trace in every)]


def at_peaks(analysis: mi_lens.Analysis, hook_name: str, ending: str) -> Counts:
    """For every trace, how often each word is emitted at the peaks under an ending."""
    strings = dict(zip((t.id for t in analysis.traces), analysis.token_strings, strict=True))
    return [
        Counter(
            shown(strings[trace.id][step])
            for step in mi_lens.find_peaks(
                analysis.measurement(trace, hook_name).endings[ending], analysis.peak_rule
            )
        )
        for trace in analysis.analysed
    ]


def shown(string: str) -> str:
    """A token as a word; markup and punctuation in quotation marks, with line ends as signs."""
    word = word_of(string)
    if word and not MARKUP.fullmatch(string):
        return word
    return f"“{printable(string.strip(' ')) or ' '}”".replace("\n", "↵")


def shares_of(counts: Counts) -> dict[str, float]:
    """Each word's share of all peaks of all traces."""
    total = sum(counts, Counter())
    return {word: count / total.total() for word, count in total.most_common()}


def likeness(own: Counts, other: Counts, seed: int) -> Estimate:
    """The common part of two distributions of words: 1 if equal, 0 if no word is in both.

    The interval comes from resampling traces.
    """
    words = sorted({word for counts in (*own, *other) for word in counts})
    first, second = (
        np.array([[c[word] for word in words] for c in every]) for every in (own, other)
    )
    weights = np.vstack([np.ones(len(own), dtype=int), resample(len(own), seed=seed)])
    drawn, others = (weights @ table for table in (first, second))
    with np.errstate(invalid="ignore"):  # A draw without peaks has no distribution.
        common = np.minimum(
            drawn / drawn.sum(1, keepdims=True), others / others.sum(1, keepdims=True)
        ).sum(1)
    if np.isnan(common[0]):
        return Estimate(None, None, None, len(own))
    return Estimate(float(common[0]), *percentiles(common[1:], 0.95), len(own))


def draw(
    shares: Mapping[str, Mapping[str, float]], alike: Mapping[str, Estimate], top: int
) -> Figure:
    """Words against endings: the share of peaks in per cent."""
    most: Counter[str] = Counter()
    for of_words in shares.values():
        for word, share in of_words.items():
            most[word] = max(most[word], share)  # type: ignore[assignment]
    words = [word for word, _ in most.most_common(top)]
    table = 100 * np.array(
        [[of_words.get(word, 0.0) for word in words] for of_words in shares.values()]
    )
    with style():
        figure, axes = plt.subplots(figsize=(PAGE, 0.24 * len(shares) + 1.1))
        image = axes.imshow(table, aspect="auto", cmap="Blues", vmin=0)
        for (row, column), value in np.ndenumerate(table):
            if value >= 0.5:
                colour = "white" if value > 0.6 * table.max() else "black"
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=6
                )
        names = [
            name.replace("_", " ")
            + ("" if name not in alike else f" ({100 * (alike[name].mean or 0):.0f} % alike)")
            for name in shares
        ]
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(words)), words, rotation=90, parse_math=False)
        figure.colorbar(image, ax=axes, label="% of peaks", pad=0.01)
    return figure


def finding(
    shares: Mapping[str, Mapping[str, float]], alike: Mapping[str, Estimate], last: str
) -> Finding:
    """Whether words at peaks are the same under other endings."""
    ordered = sorted(alike, key=lambda ending: alike[ending].mean or 0.0)

    def told(ending: str) -> str:
        name = ending.replace("_", " ")
        return f"{with_interval(alike[ending], 100)} % where it ends {name!r}"

    def commonest(ending: str) -> str:
        words = [word if "“" in word else f"“{word}”" for word in list(shares[ending])[:3]]
        return ", ".join(words) or "nothing"

    return Finding(
        about="paper 1, figure of tokens at peaks; criticism: the answer's last character",
        claim="The tokens at MI peaks are those that the gold answer picks out, however it ends.",
        tests=half_shared(
            {
                f"common part of the words at peaks under {ending!r}, less one half": share
                for ending, share in alike.items()
            }
        ),
        text=f"At {last} the words at peaks have in common with those under the text as it is "
        f"{told(ordered[-1])} and {told(ordered[0])}, the most and the least of "
        f"{len(alike)} endings. The commonest are {commonest('as_written')} with the text as it "
        f"is, {commonest(ordered[-1])} in the first case and {commonest(ordered[0])} in the "
        "second.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
