"""Whether peaks are the answer's, or those of the last characters of its text.

python -m experiments.answer_endings

With `--texts`, the model reads texts that others wrote, and no solutions: the answer is stated as
"The answer is N", with every ending.

python -m experiments.answer_endings --model CHECKPOINT --texts TRACES.jsonl --limit 10
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

from experiments.labels import Finding, half_shared
from experiments.mi_study import ReadingStudy, fingerprint_of, saved_analysis
from experiments.study import THINKING_WORDS, save
from experiments.summaries import with_interval
from mi_lens.information.per_trace.answer_endings import EndingSummary
from mi_lens.information.per_trace.remaining import Remaining
from mi_lens.report.plots.style import BLUE, COLOURS, GREY, ORANGE, PAGE, dots, style
from mi_lens.traces.vocabulary import SCALING_WORDS

SIGMA = 50.0


@dataclass(frozen=True, kw_only=True)
class Config(ReadingStudy):
    """What to run.

    Attributes:
        words: Thinking words: paper 1's list for test-time scaling, and similar words.
    """

    limit: int = 100
    words: tuple[str, ...] = (*SCALING_WORDS, *THINKING_WORDS)


@dataclass(frozen=True)
class Found:
    """What is found at one block.

    Attributes:
        endings: The peaks under each ending, compared with those of the text as it is.
        remaining: What remains of MI when each covariate is held, under the ending as it is.
    """

    endings: dict[str, EndingSummary]
    remaining: dict[str, Remaining]


def main(config: Config) -> None:
    """Compares the peaks under every ending, at every block."""
    analysis = saved_analysis(config)
    found = {
        name: Found(analysis.endings(name, config.words), analysis.controls(name).remaining)
        for name in analysis.hook_names
    }
    print(table(found))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(found),
        finding(found),
        {"blocks": found},
    )


def table(found: Mapping[str, Found]) -> str:
    """The endings at every block, as a text table."""
    lines = []
    for name, at_block in found.items():
        lines.append(
            f"{name:<28}{'% peaks':>9}{'shared':>22}{'% at thinking words':>24}{'lift':>20}"
        )
        for ending, row in at_block.endings.items():
            lines.append(
                f"  {ending:<26}{100 * (row.ratio.mean or 0):>9.1f}"
                f"{with_interval(row.overlap, digits=2):>22}"
                f"{with_interval(row.thinking, 100):>24}{with_interval(row.lift):>20}"
            )
    return "\n".join(lines)


def draw(found: Mapping[str, Found]) -> Figure:
    """Peaks shared, thinking words at peaks, and what remains, at the last block and by block."""
    last = list(found.values())[-1]
    names = list(last.endings)
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.9), width_ratios=(1, 1, 1.1), layout="constrained"
        )
        dots(left, [last.endings[name].overlap for name in names], BLUE)
        left.set_xlabel("peaks shared with the text\nas written (Jaccard, 95 %)")
        left.set_xlim(-0.04, 1.04)
        dots(middle, [last.endings[name].thinking for name in names], ORANGE, scale=100)
        steps = last.endings[names[0]]
        if steps.thinking.mean and steps.lift.mean:
            everywhere = 100 * steps.thinking.mean / steps.lift.mean
            middle.axvline(everywhere, color=GREY, linewidth=0.8, linestyle="--")
        middle.set_xlabel("% of peaks at thinking words\n(dashed: % of all steps; 95 %)")
        middle.set_xlim(left=0)
        for axes in (left, middle):
            axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
            axes.set_ylim(len(names) - 0.5, -0.5)
        middle.tick_params(labelleft=False)
        _draw_remaining(right, found)
    return figure


def _draw_remaining(axes, found: Mapping[str, Found]) -> None:
    held = list(next(iter(found.values())).remaining)
    for colour, name in zip(COLOURS, held, strict=False):
        values = [at_block.remaining[name].variance.mean for at_block in found.values()]
        axes.plot(
            range(len(values)),
            [100 * (v or 0) for v in values],
            "o-",
            color=colour,
            markersize=3,
            label=name,
            linewidth=1,
        )
    axes.set_xlabel("block")
    axes.set_ylabel("% of MI's variance left")
    axes.set_ylim(0, 102)
    axes.set_xticks(range(0, len(found), max(1, len(found) // 6)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize="x-small")


def finding(found: Mapping[str, Found]) -> Finding:
    """Whether peaks stay when the same answer ends otherwise, and stand at thinking words."""
    hook_name, last = list(found.items())[-1]
    rows = last.endings
    full_stop = rows["period"]
    others = {name: row for name, row in rows.items() if name not in ("as_written", "period")}
    wording = others.pop("paraphrase")
    least = min(others.values(), key=lambda row: row.overlap.mean or 0.0)
    squared = [at.remaining["squared correlation"].variance.mean or 0.0 for at in found.values()]
    alike = last.remaining["next token as after the answer"]

    def lift_of(names: Sequence[str]) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {with_interval(rows[name].thinking, 100)}" for name in names
        )

    return Finding(
        about="paper 1, peaks and tokens at peaks; criticism: the answer's last character",
        claim="MI peaks are steps that know the gold answer, and thinking tokens stand there.",
        tests=half_shared(
            {
                f"peaks shared with the ending {name!r}, less one half": others[ending].overlap
                for ending, name in ((ending, ending.replace("_", " ")) for ending in others)
            }
        ),
        text=f"At {hook_name}, of the peaks under the text as written or under another ending of "
        f"the same answer, {with_interval(least.overlap, 100)} % are of both where the two differ "
        f"most, and {with_interval(wording.overlap, 100)} % where another sentence ends with the "
        f"same full stop; at thinking words stand {lift_of(list(rows))} % of the peaks, and with a "
        f"full stop that is {with_interval(full_stop.lift)} times their share of all steps. "
        f"With the squared correlation of the coordinates held, {100 * min(squared):.1f} to "
        f"{100 * max(squared):.1f} % of MI's variance is left, by block; with the likeness of the "
        f"next-token distribution to that after the answer, {with_interval(alike.variance, 100)} % "
        f"({with_interval(alike.chance, 100)} % by chance) and {with_interval(alike.peaks, 100)} % "
        "of the peaks.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
