"""What of the MI at peaks has to do with the answer: the same states against control answers.

python -m experiments.specificity
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

import mi_lens
from experiments.study import Finding, Study, Verdict, analysis, said, save, side
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
from mi_lens.runs.measure import activations_path
from mi_lens.states.shard import load_activations

TREATMENTS = ("gold answer", "massive removed", "other answers", "answer permuted")
COLOURS = {
    "gold answer": BLUE, "massive removed": PURPLE, "other answers": GREY, "answer permuted": SKY,
    "raw": ORANGE, "specific": GREEN, "both": BLUE,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        others: Other problems' answers whose own peaks are compared with the gold answer's.
    """

    others: int = 8


def main(config: Config) -> None:
    """Reads every block against the gold answer and against controls."""
    found = analysis(config)
    read: dict[str, dict[str, list[Estimate]]] = {
        "mi": by_block(found, {name: lambda r, n=name: mean_mi(r, n) for name in TREATMENTS}),
        "rise left": by_block(found, {name: lambda r, n=name: rise_left(r, n)
                                      for name in TREATMENTS if name != "gold answer"}),
        "peaks": by_block(found, {name: lambda r, f=f: float(len(f(r)))
                                  for name, f in PEAKS.items()}),
        "height of own peaks": own_peaks(found, config),
    }  # fmt: skip
    for table, scale in (("rise left", 100), ("peaks", 1), ("height of own peaks", 1)):
        for name, estimates in read[table].items():
            print(f"{table}, {name}, by block: " + ", ".join(said(e, scale) for e in estimates))
    save(
        config,
        {config.model: found.traces[0].model},
        draw(read),
        finding(read, found.hook_names[-1]),
        {"hook_names": found.hook_names, **read},
    )


def own_peaks(found: mi_lens.Analysis, config: Config) -> dict[str, list[Estimate]]:
    """How high peaks stand above the trace's median, for the gold answer and for any other.

    Each answer's peaks are its own. Peaks that are chosen as the gold answer's highest steps would
    be lower for another answer whichever answer were called the gold one.
    """
    model = mi_lens.load(config.model)
    kept = [trace for trace in found.analysed if trace.problem is not None]
    answers = [mi_lens.answer_state(model, t.problem, found.hook_names) for t in kept if t.problem]
    heights = np.full((len(kept), len(found.hook_names), 2), np.nan)
    for i, trace in enumerate(tqdm(kept, desc="other answers", unit="trace", disable=None)):
        rng = np.random.default_rng([config.seed, i])
        different = [
            j for j, other in enumerate(kept)
            if trace.problem and other.problem and other.problem.answer != trace.problem.answer
        ]  # fmt: skip
        drawn = rng.choice(different, min(config.others, len(different)), replace=False)
        states = load_activations(activations_path(found.config.out, trace))
        for j, hook in enumerate(found.hook_names):
            vectors = torch.stack([answers[k][hook] for k in [i, *drawn]])
            own, *others = map(height, mi_lens.hsic_mi(states[hook], vectors).T.numpy())
            heights[i, j] = own, np.mean(others)
    gold, other = heights[..., 0], heights[..., 1]
    return {
        name: [estimate_mean(column.tolist()) for column in values.T]
        for name, values in (("gold answer", gold), ("other answers", other),
                             ("difference", gold - other))
    }  # fmt: skip


def height(mi: np.ndarray) -> float:
    """Mean height of a trajectory's peaks above its median; 0 without peaks."""
    peaks = mi_lens.find_peaks(mi)
    return float(mi[peaks].mean() - np.median(mi)) if len(peaks) else 0.0


def by_block(
    found: mi_lens.Analysis, values: Mapping[str, Callable[[Measurement], float | None]]
) -> dict[str, list[Estimate]]:
    """Means over problems of what is read from a trace, block by block."""
    return {
        name: [
            estimate_mean([v for t in found.analysed
                           if (v := value(found.measurement(t, hook))) is not None])
            for hook in found.hook_names
        ]
        for name, value in values.items()
    }  # fmt: skip


def treated(measurement: Measurement, name: str) -> np.ndarray:
    """The trajectory under a treatment."""
    assert measurement.calibration is not None
    if name in ("gold answer", "other answers"):
        return measurement.mi if name == "gold answer" else measurement.calibration.mean
    return measurement.variants[name]


def mean_mi(measurement: Measurement, name: str) -> float:
    """Mean MI of a trace under a treatment."""
    return float(treated(measurement, name).mean())


def rise_left(measurement: Measurement, name: str) -> float | None:
    """What part of the height of raw peaks above the trace's median a treatment leaves."""
    peaks = raw_peaks(measurement)
    if not peaks:
        return None
    heights = [mi[peaks].sum() - len(peaks) * np.median(mi)
               for mi in (treated(measurement, name), measurement.mi)]  # fmt: skip
    return float(heights[0] / heights[1])


def raw_peaks(measurement: Measurement) -> list[int]:
    """As the paper finds them."""
    return mi_lens.find_peaks(measurement.mi).tolist()


def specific_peaks(measurement: Measurement) -> list[int]:
    """Peaks of what the gold answer has over other answers, beyond chance."""
    assert measurement.calibration is not None
    return measurement.calibration.peaks().tolist()


def both(measurement: Measurement) -> list[int]:
    """Raw peaks that are specific."""
    return sorted({*raw_peaks(measurement)} & {*specific_peaks(measurement)})


PEAKS = {"raw": raw_peaks, "specific": specific_peaks, "both": both}


def draw(read: Mapping[str, Mapping[str, list[Estimate]]]) -> Figure:
    """What is read block by block, a panel a quantity."""
    with style():
        figure, panels = plt.subplots(1, 4, figsize=(PAGE, 2.2))
        shown = (
            ("mi", 1.0, f"mean {MI_LABEL}"),
            ("rise left", 100.0, "rise of raw peaks left (%)"),
            ("height of own peaks", 1.0, "height of own peaks"),
            ("peaks", 1.0, "peaks a trace"),
        )
        for axes, (table, scale, label) in zip(panels, shown, strict=True):
            for name, estimates in read[table].items():
                if name == "difference":
                    continue
                blocks = range(len(estimates))
                curve(axes, blocks, estimates, COLOURS[name], name, scale=scale, marker="o")
                if name in ("massive removed", "both"):  # It may lie on another line.
                    axes.lines[-1].set(linestyle="--", markersize=6, markerfacecolor="none")
                axes.set_xticks(blocks)
            axes.set_xlabel("block")
            axes.set_ylabel(label)
        panels[3].legend(loc="center")
        legend_above(figure, panels[0])
    return figure


def finding(read, last: str) -> Finding:
    """Whether peaks are higher for the gold answer than any other answer's own peaks are."""
    gold, other, more = (
        read["height of own peaks"][name][-1]
        for name in ("gold answer", "other answers", "difference")
    )
    verdict: Verdict = "against" if side(more) < 0 else "open"
    if side(more) > 0:
        verdict = "with" if more.mean > 0.5 * other.mean else "in part"
    left = read["rise left"]["other answers"]
    blocks = sorted(100 * one.mean for one in left)
    raw, specific, common = (read["peaks"][name][-1] for name in PEAKS)
    return Finding(
        about="paper 1, MI peaks; criticism: MI of two vectors sees their shape, not the answer",
        claim="MI peaks are where the state says something about the answer.",
        verdict=verdict,
        text=f"At {last} the gold answer's peaks stand {said(gold, digits=3)} above a trace's "
        f"median and another problem's answer's own peaks {said(other, digits=3)}, a difference of "
        f"{said(more, digits=3)}; at the very steps of the gold answer's peaks other answers keep "
        f"{said(left[-1], 100, 0)} % of the rise ({blocks[0]:.0f} to {blocks[-1]:.0f} % by block). "
        f"A trace has {said(raw)} raw peaks, {said(specific)} peaks of the specific part beyond "
        f"chance (family-wise .05), and {said(common, digits=2)} steps that are both.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
