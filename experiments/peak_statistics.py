"""Number and spacing of peaks of a reasoner and its base at every block (paper 1, table 1).

python -m experiments.peak_statistics
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIStudy, saved_analysis
from experiments.study import save
from experiments.summaries import affine, evenly_spaced, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.models.pocket import BASES
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, dots, style

# Number of peaks, peaks per step, mean interval; on MATH problems, cut at 512 tokens.
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
Values = dict[str, list[float | None]]  # For every field, one value per trace.


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run.

    Attributes:
        base: The model that the reasoner was trained from, or a similar one. None means the
            base of a pocket model; another model is then measured alone.
        blocks: Largest number of blocks shown of each model, evenly spaced, with the last one.
        draws: Number of random placements of the peaks on each trace.
    """

    base: str | None = None
    blocks: int = 6
    draws: int = 20


def main(config: Config) -> None:
    """Measures the peaks of the model, and of its base if there is one, block by block."""
    default = BASES.get(config.model, config.model)
    rows: dict[str, dict[str, Values]] = {}
    models = {}
    for model in dict.fromkeys((config.model, config.base or default)):
        analysis = saved_analysis(config, model)
        models[model] = analysis.traces[0].model
        names = analysis.hook_names
        for hook_name in (names[i] for i in evenly_spaced(len(names), config.blocks)):
            rows[f"{model}, block {hook_name.split('.')[1]}"] = measure(analysis, hook_name, config)
    means = {
        row: {
            kind: {field: mean(values) for field, values in by_field.items()}
            for kind, by_field in kinds.items()
        }
        for row, kinds in rows.items()
    }
    print(table(means))
    last = [row for row in rows if row.startswith(f"{config.model}, block ")][-1]
    unevenness = {
        field: mean(differences(rows[last]["raw"][field], rows[last]["as many at random"][field]))
        for field in ("interval_min", "interval_max")
    }
    save(
        config,
        models,
        draw(means),
        finding(means[last]["raw"], unevenness),
        {"means": means, "interval less random": unevenness, "paper": PAPER},
    )


def measure(analysis: mi_lens.Analysis, hook_name: str, config: Config) -> dict[str, Values]:
    """Every field of every trace, for each kind of peaks."""
    rng = np.random.default_rng(config.seed)
    measured: dict[str, Values] = {kind: {field: [] for field in FIELDS} for kind in SERIES}
    for trace in analysis.analysed:
        mi = analysis.mi(trace, hook_name)
        raw = analysis.peaks(trace, hook_name)
        peaks_by_kind = {
            "raw": raw,
            "specific": analysis.specific_peaks(trace, hook_name),
            "top 20": mi_lens.top_k_peaks(mi, 20),
        }
        placements = [rng.choice(len(mi), len(raw), replace=False) for _ in range(config.draws)]
        random = [mi_lens.peak_statistics(mi, peaks) for peaks in placements]
        for field in FIELDS:
            for kind, peaks in peaks_by_kind.items():
                known = None if peaks is None else mi_lens.peak_statistics(mi, peaks)
                measured[kind][field].append(getattr(known, field, None))
            values = [getattr(statistics, field) for statistics in random]
            at_random = None if None in values else float(np.mean(values))
            measured["as many at random"][field].append(at_random)
    return measured


def mean(values: list[float | None]) -> Estimate:
    """The mean over the traces that define the value."""
    return estimate_mean([float(value) for value in values if value is not None])


def differences(values: list[float | None], controls: list[float | None]) -> list[float | None]:
    """Values less their controls; None where either is undefined."""
    pairs = zip(values, controls, strict=True)
    return [
        None if value is None or control is None else value - control for value, control in pairs
    ]


def table(means: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> str:
    """The means as a text table, above the numbers of the paper."""
    names = ("raw", "as many at random", "specific")
    lines = [f"{'':<28}{'peaks':>20}{'% of steps':>20}{'least, mean and largest interval':>60}"]
    for row, kinds in means.items():
        for kind in names:
            cells = [
                with_interval(kinds[kind][field], scale) for field, (_, scale) in FIELDS.items()
            ]
            name = row if kind == "raw" else "  " + kind
            lines.append(f"{name:<28}" + "".join(f"{cell:>22}" for cell in cells))
    for name, (count, ratio, interval) in PAPER.items():
        lines.append(f"paper 1: {name:<22}{count:>10} peaks, {100 * ratio:.2f} %, {interval} steps")
    return "\n".join(lines)


def draw(means: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> Figure:
    """One panel per field, one line per model and block, one marker per kind of peaks."""
    names = list(means)
    with style():
        figure, panels = plt.subplots(
            1, len(FIELDS), figsize=(PAGE, 0.27 * len(names) + 0.9), sharey=True
        )
        for axes, (field, (label, scale)) in zip(panels, FIELDS.items(), strict=True):
            for i, (kind, (colour, marker)) in enumerate(SERIES.items()):
                # Few traces have two specific peaks, and the top 20 are always 20.
                counted = field in ("count", "ratio")
                if counted == (kind in ("raw", "specific")) or kind == "raw":
                    estimates = [means[name][kind][field] for name in names]
                    shift = 0.18 * (i - 1.5)
                    dots(axes, estimates, colour, scale=scale, shift=shift, markers=marker)
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
    """Whether peaks are as few as in the models of the paper, and form clusters."""
    ratio = raw["ratio"]
    most = max(row[1] for row in PAPER.values())
    return Finding(
        about="paper 1, table 1",
        claim="Peaks are few (2.6 to 24.5 of 512 steps) and spread unevenly over the trace.",
        tests=(
            ClaimTest(
                f"fewer peaks than {100 * most:.1f} % of the steps, the most in the paper",
                affine(ratio, -100, 100 * most),
                0.0,
                "points",
            ),
            ClaimTest(
                "largest gap less that of as many peaks placed at random",
                unevenness["interval_max"],
                1.0,
                "steps",
            ),
        ),
        text=f"At the last block {with_interval(ratio, 100)} % of the steps are peaks, "
        f"{with_interval(raw['interval_mean'])} steps apart on average. Their largest gap is "
        f"{with_interval(unevenness['interval_max'])} steps longer than of as many peaks placed at "
        f"random, their least gap {with_interval(unevenness['interval_min'])}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
