"""How much of the MI at peaks concerns the answer: the same states against control answers.

python -m experiments.specificity
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIReadingStudy, fingerprint_of, saved_analysis
from experiments.study import save
from experiments.summaries import by_block, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.report.plots.style import (
    BLUE,
    GREEN,
    GREY,
    MI_LABEL,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    curve,
    legend_above,
    style,
)

TREATMENTS = ("gold answer", "massive removed", "other answers", "answer permuted")
COLOURS = {
    "gold answer": BLUE,
    "massive removed": PURPLE,
    "other answers": GREY,
    "answer permuted": SKY,
    "raw": ORANGE,
    "specific": GREEN,
    "both": BLUE,
}


@dataclass(frozen=True, kw_only=True)
class Config(MIReadingStudy):
    """What to run.

    Attributes:
        others: Number of other problems' answers whose peaks are compared with the gold answer's.
    """

    others: int = 8


def main(config: Config) -> None:
    """Measures MI with the gold answer and with control answers, at every block."""
    analysis = saved_analysis(config)
    tables: dict[str, dict[str, list[Estimate]]] = {
        "mi": {name: by_block(analysis, partial(mean_mi, name=name)) for name in TREATMENTS},
        "rise left": {
            name: by_block(analysis, partial(rise_left, name=name))
            for name in TREATMENTS
            if name != "gold answer"
        },
        "peaks": {
            name: by_block(analysis, partial(number_of_peaks, peaks=peaks))
            for name, peaks in PEAKS.items()
        },
        "peaks beyond chance": {"specific": by_block(analysis, beyond_chance)},
        "height of own peaks": own_peaks(analysis, config),
    }
    for table, scale in (("rise left", 100), ("peaks", 1), ("height of own peaks", 1)):
        for name, estimates in tables[table].items():
            cells = [with_interval(estimate, scale) for estimate in estimates]
            print(f"{table}, {name}, by block: " + ", ".join(cells))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(tables),
        finding(tables, analysis.hook_names[-1]),
        {"hook_names": analysis.hook_names, **tables},
    )


def own_peaks(analysis: mi_lens.Analysis, config: Config) -> dict[str, list[Estimate]]:
    """Height of peaks above the trace's median, for the gold answer and for other answers.

    Every answer gets its own peaks. Steps that are chosen as the peaks of one answer are lower for
    any other answer, whichever answer is the gold one.
    """
    model = mi_lens.load(config.model)
    pairs = [(trace, trace.problem) for trace in analysis.analysed if trace.problem is not None]
    answers = [
        mi_lens.answer_state(model, problem, analysis.hook_names, ending=analysis.config.ending)
        for _, problem in pairs
    ]
    heights = np.full((len(pairs), len(analysis.hook_names), 2), np.nan)
    progress = tqdm(pairs, desc="other answers", unit="trace", disable=None)
    for i, (trace, problem) in enumerate(progress):
        rng = np.random.default_rng([config.seed, i])
        different = [j for j, (_, other) in enumerate(pairs) if other.answer != problem.answer]
        others = rng.choice(different, min(config.others, len(different)), replace=False)
        for layer, hook in enumerate(analysis.hook_names):
            vectors = torch.stack([answers[j][hook] for j in [i, *others]])
            gold_height, *heights_of_others = map(
                height, mi_lens.hsic_mi(analysis.states(trace, hook), vectors).T.numpy()
            )
            heights[i, layer] = gold_height, np.mean(heights_of_others)
    gold, other = heights[..., 0], heights[..., 1]
    return {
        name: [estimate_mean(column.tolist()) for column in values.T]
        for name, values in (
            ("gold answer", gold),
            ("other answers", other),
            ("difference", gold - other),
        )
    }


def height(mi: np.ndarray) -> float:
    """Mean height of a trajectory's peaks above its median; 0 without peaks."""
    peaks = mi_lens.find_peaks(mi)
    return float(mi[peaks].mean() - np.median(mi)) if len(peaks) else 0.0


def treated(measurement: Measurement, name: str) -> np.ndarray:
    """The trajectory after a treatment of the states or of the answer."""
    assert measurement.calibration is not None
    if name in ("gold answer", "other answers"):
        return measurement.mi if name == "gold answer" else measurement.calibration.mean
    return measurement.variants[name]


def mean_mi(measurement: Measurement, name: str) -> float:
    """Mean MI of a trace after a treatment."""
    return float(treated(measurement, name).mean())


def rise_left(measurement: Measurement, name: str) -> float | None:
    """Share of the height of raw peaks above the median that a treatment leaves."""
    peaks = raw_steps(measurement)
    if not peaks:
        return None
    heights = [
        mi[peaks].sum() - len(peaks) * np.median(mi)
        for mi in (treated(measurement, name), measurement.mi)
    ]
    return float(heights[0] / heights[1])


def number_of_peaks(
    measurement: Measurement, peaks: Callable[[Measurement], list[int] | None]
) -> float | None:
    """Number of peaks of a kind in a trace; None if it is unknown."""
    steps = peaks(measurement)
    return None if steps is None else float(len(steps))


def raw_steps(measurement: Measurement) -> list[int]:
    """The peaks of MI with the gold answer, as the paper finds them."""
    return mi_lens.find_peaks(measurement.mi).tolist()


def specific_steps(measurement: Measurement) -> list[int] | None:
    """Significant peaks of the gold answer's MI above that of other answers.

    None if there are too few other answers to tell.
    """
    calibration = measurement.calibration
    assert calibration is not None
    return calibration.peaks().tolist() if calibration.decides() else None


def common_steps(measurement: Measurement) -> list[int] | None:
    """Steps that are raw and specific peaks; None if the specific peaks are unknown."""
    specific = specific_steps(measurement)
    return None if specific is None else sorted({*raw_steps(measurement)} & {*specific})


def beyond_chance(measurement: Measurement) -> float | None:
    """Specific peaks less those of another answer in the gold one's place; None if unknown."""
    specific, calibration = specific_steps(measurement), measurement.calibration
    if specific is None or calibration is None or calibration.chance_peaks is None:
        return None
    return len(specific) - calibration.chance_peaks


PEAKS = {"raw": raw_steps, "specific": specific_steps, "both": common_steps}


def draw(tables: Mapping[str, Mapping[str, list[Estimate]]]) -> Figure:
    """Every quantity block by block, one panel per quantity."""
    with style():
        figure, panels = plt.subplots(1, 4, figsize=(PAGE, 2.2))
        quantities = (
            ("mi", 1.0, f"mean {MI_LABEL}"),
            ("rise left", 100.0, "rise of raw peaks left (%)"),
            ("height of own peaks", 1.0, "height of own peaks"),
            ("peaks", 1.0, "peaks a trace"),
        )
        for axes, (table, scale, label) in zip(panels, quantities, strict=True):
            for name, estimates in tables[table].items():
                if name == "difference":
                    continue
                blocks = range(len(estimates))
                curve(axes, blocks, estimates, COLOURS[name], name, scale=scale, marker="o")
                if name in ("massive removed", "both"):  # They may lie on another line.
                    axes.lines[-1].set(linestyle="--", markersize=4, markerfacecolor="none")
            axes.set_xlabel("block")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylabel(label)
        panels[3].legend(loc="best")
        legend_above(figure, panels[0])
    return figure


def specific_part(specific: Estimate, beyond: Estimate, common: Estimate) -> str:
    """What is known of the peaks of the specific part, as the end of a sentence."""
    if specific.mean is None:
        return ", and other answers are too few to tell which of them are specific"
    chance = "which other answers are too few to compare with chance"
    if beyond.mean is not None:
        chance = (
            f"{with_interval(beyond, digits=2)} more than another problem's answer has in the gold "
            "one's place"
        )
    return (
        f", {with_interval(specific)} peaks of the specific part (family-wise .05), {chance}, and "
        f"{with_interval(common, digits=2)} steps that are both"
    )


def finding(tables, last: str) -> Finding:
    """Whether the gold answer's peaks are higher than the own peaks of other answers."""
    gold, other, more = (
        tables["height of own peaks"][name][-1]
        for name in ("gold answer", "other answers", "difference")
    )
    left = tables["rise left"]["other answers"]
    blocks = sorted(100 * estimate.mean for estimate in left)
    raw, specific, common = (tables["peaks"][name][-1] for name in PEAKS)
    (beyond,) = (estimates[-1] for estimates in tables["peaks beyond chance"].values())
    told = specific_part(specific, beyond, common)
    return Finding(
        about="paper 1, MI peaks; criticism: MI of two vectors sees their shape, not the answer",
        claim="MI peaks are where the state says something about the answer.",
        # A count of significant peaks would be no test: a peak may be real and not be significant.
        tests=(
            ClaimTest(
                "height of the gold answer's peaks less that of other answers' own peaks, where "
                "half of the latter would matter",
                more,
                0.5 * (other.mean or 0.0),
                "of MI",
            ),
        ),
        text=f"At {last} the gold answer's peaks stand {with_interval(gold, digits=3)} above a "
        "trace's median and another problem's answer's own peaks "
        f"{with_interval(other, digits=3)}, a difference of {with_interval(more, digits=3)}; at "
        "the very steps of the gold answer's peaks other answers keep "
        f"{with_interval(left[-1], 100, 0)} % of the rise ({blocks[0]:.0f} to {blocks[-1]:.0f} % "
        f"by block). A trace has {with_interval(raw)} raw peaks{told}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
