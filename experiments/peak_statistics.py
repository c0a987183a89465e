"""Peaks of a reasoner and its base at every block: how many, how far apart (paper 1, table 1).

python -m experiments.peak_statistics
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import Finding, Study, Verdict, analysis, said, save, side
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, dots, style

# Number of peaks, peaks a step, mean interval; of MATH problems, cut at 512 tokens.
PAPER = {
    "R1-Distill-Qwen-7B": (2.57, 0.0051, 87.4),
    "R1-Distill-Llama-8B": (24.5, 0.048, 27.8),
    "R1-Distill-Qwen-14B": (18.3, 0.0359, 31.1),
    "R1-Distill-Qwen-32B": (10.8, 0.0212, 59.3),
    "QwQ-32B": (5.4, 0.011, 66.5),
    "R1-Distill-Llama-70B": (16.6, 0.0324, 34.7),
}
FIELDS = {
    "count": ("peaks a trace", 1.0),
    "ratio": ("peaks, % of steps", 100.0),
    "interval_min": ("least interval\n(steps)", 1.0),
    "interval_mean": ("mean interval\n(steps)", 1.0),
    "interval_max": ("largest interval\n(steps)", 1.0),
}
SERIES = {
    "raw": (BLUE, "o"),
    "specific": (GREEN, "D"),
    "top 20": (ORANGE, "^"),
    "as many at random": (GREY, "s"),
}
Values = dict[str, list[float | None]]  # By field, one a trace.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        base: The model that the reasoner was made from, or one like it; None is pocket-base beside
            pocket-reasoner, and none beside another model.
        blocks: Shown of each model at most, evenly spaced, the last among them.
        draws: Of peaks placed at random on each trace.
    """

    base: str | None = None
    blocks: int = 6
    draws: int = 20


def main(config: Config) -> None:
    """Measures the model, and its base if there is one, at every block."""
    own = "pocket-base" if config.model == "pocket-reasoner" else config.model
    rows: dict[str, dict[str, Values]] = {}
    models = {}
    for model in dict.fromkeys((config.model, config.base or own)):
        found = analysis(config, model)
        models[model] = found.traces[0].model
        names = found.hook_names
        shown = np.linspace(0, len(names) - 1, min(config.blocks, len(names))).round().astype(int)
        for hook_name in (names[i] for i in shown):
            rows[f"{model}, block {hook_name.split('.')[1]}"] = measure(found, hook_name, config)
    means = {
        row: {kind: {f: mean(v) for f, v in values.items()} for kind, values in kinds.items()}
        for row, kinds in rows.items()
    }
    print(table(means))
    last = [row for row in rows if row.startswith(f"{config.model}, block ")][-1]
    unevenness = {
        field: mean(apart(rows[last]["raw"][field], rows[last]["as many at random"][field]))
        for field in ("interval_min", "interval_max")
    }
    save(
        config, models, draw(means), finding(means[last]["raw"], unevenness),
        {"means": means, "interval less random": unevenness, "paper": PAPER},
    )  # fmt: skip


def measure(found: mi_lens.Analysis, hook_name: str, config: Config) -> dict[str, Values]:
    """Every field of every trace, by each rule of what a peak is."""
    rng = np.random.default_rng(config.seed)
    measured: dict[str, Values] = {kind: {field: [] for field in FIELDS} for kind in SERIES}
    for trace in found.analysed:
        mi = found.mi(trace, hook_name)
        raw = found.peaks(trace, hook_name)
        chosen = {
            "raw": raw,
            "specific": found.specific_peaks(trace, hook_name) or [],
            "top 20": mi_lens.top_k_peaks(mi, 20),
        }
        placed = [rng.choice(len(mi), len(raw), replace=False) for _ in range(config.draws)]
        drawn = [mi_lens.peak_statistics(mi, peaks) for peaks in placed]
        for field in FIELDS:
            for kind, peaks in chosen.items():
                measured[kind][field].append(getattr(mi_lens.peak_statistics(mi, peaks), field))
            values = [getattr(one, field) for one in drawn]
            at_random = None if None in values else float(np.mean(values))
            measured["as many at random"][field].append(at_random)
    return measured


def mean(values: list[float | None]) -> Estimate:
    """Over the traces that define it."""
    return estimate_mean([float(value) for value in values if value is not None])


def apart(ours: list[float | None], theirs: list[float | None]) -> list[float | None]:
    """Differences, pair by pair."""
    pairs = zip(ours, theirs, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def table(means: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> str:
    """The means as text, with the paper's below."""
    names = ("raw", "as many at random", "specific")
    lines = [f"{'':<28}{'peaks':>20}{'% of steps':>20}{'least, mean and largest interval':>60}"]
    for row, kinds in means.items():
        for kind in names:
            cells = [said(kinds[kind][field], scale) for field, (_, scale) in FIELDS.items()]
            lines.append(f"{row if kind == 'raw' else '  ' + kind:<28}" + "".join(
                f"{cell:>22}" for cell in cells))  # fmt: skip
    for name, (count, ratio, interval) in PAPER.items():
        lines.append(f"paper 1: {name:<22}{count:>10} peaks, {100 * ratio:.2f} %, {interval} steps")
    return "\n".join(lines)


def draw(means: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> Figure:
    """A panel a field, a line a model and block, a mark a rule."""
    names = list(means)
    with style():
        figure, panels = plt.subplots(
            1, len(FIELDS), figsize=(PAGE, 0.27 * len(names) + 0.9), sharey=True
        )
        for axes, (field, (label, scale)) in zip(panels, FIELDS.items(), strict=True):
            for i, (kind, (colour, marker)) in enumerate(SERIES.items()):
                # Few traces have two specific peaks; the number of the top 20 is no finding.
                counted = field in ("count", "ratio")
                if counted == (kind in ("raw", "specific")) or kind == "raw":
                    dots(
                        axes, [means[name][kind][field] for name in names], colour, scale=scale,
                        shift=0.18 * (i - 1.5), markers=marker,
                    )  # fmt: skip
            axes.set_xlabel(label)
            axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        panels[0].set_yticks(range(len(names)), names, parse_math=False)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        for kind, (colour, marker) in SERIES.items():
            panels[0].plot([], [], marker, color=colour, markersize=3, label=kind)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def finding(raw: Mapping[str, Estimate], unevenness: Mapping[str, Estimate]) -> Finding:
    """Whether peaks are as few as in the paper's models, and come in clusters."""
    ratio = raw["ratio"]
    few = ratio.high is not None and ratio.high <= max(row[1] for row in PAPER.values())
    uneven = side(unevenness["interval_max"]) > 0
    verdict: Verdict = "with" if few and uneven else "in part" if few or uneven else "open"
    many = ratio.low is not None and ratio.low > max(row[1] for row in PAPER.values())
    if verdict == "open" and (many or side(unevenness["interval_max"]) < 0):
        verdict = "against"
    return Finding(
        about="paper 1, table 1",
        claim="Peaks are few (2.6 to 24.5 of 512 steps) and spread unevenly over the trace.",
        verdict=verdict,
        text=f"At the last block {said(ratio, 100)} % of the steps are peaks, "
        f"{said(raw['interval_mean'])} steps apart on average. Their largest gap is "
        f"{said(unevenness['interval_max'])} steps longer than of as many peaks placed at random, "
        f"their least gap {said(unevenness['interval_min'])}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
