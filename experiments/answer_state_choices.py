"""Whether the same steps peak when the answer state is read in six different ways.

python -m experiments.answer_state_choices
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

import mi_lens
from experiments.labels import Finding, half_shared
from experiments.mi_study import MIStudy
from experiments.study import baseline_traces, block_outputs, save
from experiments.summaries import evenly_spaced, raw_peaks, shared_peaks, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.controls import Calibration, mismatched_gold
from mi_lens.information.per_trace.peaks import MINIMUM_STEPS
from mi_lens.report.plots.style import COLOURS, PAGE, dots, legend_above, style
from mi_lens.states.answer_state import AnswerSite

Choice = tuple[AnswerSite, bool]
CHOICES: tuple[Choice, ...] = tuple(product(get_args(AnswerSite), (False, True)))
OF_PAPER: Choice = ("solution_last", False)


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run. All problems need worked solutions.

    Attributes:
        mismatched: Largest number of other problems' answers that a trace is compared with.
    """

    limit: int = 60
    mismatched: int = 40


def main(config: Config) -> None:
    """Measures MI of greedy traces with each choice of the answer state, at every block."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    lacking = [problem.id for problem in problems if not problem.solution]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(problems)} problems have no worked solution (the first is "
            f"{lacking[0]}), which one of the choices reads; give problems with solutions"
        )
    traces = [
        trace for trace in baseline_traces(config, model, problems) if len(trace) >= MINIMUM_STEPS
    ]
    hooks = block_outputs(model)
    by_choice = {
        name(choice): calibrations(model, traces, hooks, choice, config) for choice in CHOICES
    }
    numbers = {
        choice: {
            "specific part": block_means(
                by_trace, lambda calibration: float(calibration.specific.mean())
            ),
            "specific peaks": block_means(by_trace, specific_peaks),
            "raw peaks": block_means(
                by_trace, lambda calibration: float(len(raw_peaks(calibration.raw)))
            ),
        }
        for choice, by_trace in by_choice.items()
    }
    overlap = {
        (choice, other): last_block_overlap(by_choice[choice], by_choice[other])
        for choice, other in product(by_choice, repeat=2)
    }
    for choice, row in numbers.items():
        cells = [f"{key} {with_interval(row[key][-1], digits=2)}" for key in row]
        print(f"{choice:<28}" + "; ".join(cells))
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(numbers, overlap),
        finding(numbers, overlap, hooks[-1]),
        {
            "hook_names": hooks,
            "choices": numbers,
            "raw peaks shared (last block)": {
                " / ".join(pair): estimate for pair, estimate in overlap.items()
            },
        },
    )


def name(choice: Choice) -> str:
    """A choice's name, as "answer, last" or "answer, last, chat"."""
    text, token = choice[0].split("_")
    return f"{text}, {token}{', chat' if choice[1] else ''}"


def calibrations(
    model, traces: Sequence[mi_lens.Trace], hooks: Sequence[str], choice: Choice, config: Config
) -> list[list[Calibration]]:
    """For every trace and block the trajectory, calibrated by other problems' answers."""
    site, template = choice
    problems = [trace.problem for trace in traces if trace.problem is not None]
    answers = [
        mi_lens.answer_state(
            model, problem, hooks, site=site, template=template, ending=config.ending
        )
        for problem in problems
    ]
    by_trace = []
    for i, trace in enumerate(tqdm(traces, desc=name(choice), unit="trace", disable=None)):
        different = [
            j for j, problem in enumerate(problems) if problem.answer != problems[i].answer
        ]
        count = min(config.mismatched, len(different))
        others = [answers[j] for j in Random(f"{config.seed}/{i}").sample(different, count)]
        (states,) = mi_lens.capture(model, [trace], hooks)
        by_hook = []
        for hook in hooks:
            mismatched = torch.stack([answer[hook] for answer in others])
            by_hook.append(mismatched_gold(states[hook], answers[i][hook], mismatched))
        by_trace.append(by_hook)
    return by_trace


def specific_peaks(calibration: Calibration) -> float | None:
    """Number of specific peaks; None if there are too few other answers to tell."""
    return float(len(calibration.peaks())) if calibration.decides() else None


def block_means(
    by_trace: Sequence[Sequence[Calibration]], value: Callable[[Calibration], float | None]
) -> list[Estimate]:
    """Means over traces (one per problem), block by block; traces without a value do not count."""
    return [
        estimate_mean([number for number in map(value, block) if number is not None])
        for block in zip(*by_trace, strict=True)
    ]


def last_block_overlap(
    by_trace: Sequence[Sequence[Calibration]], others: Sequence[Sequence[Calibration]]
) -> Estimate:
    """Mean over traces of the Jaccard overlap of raw peaks at the last block."""
    overlaps = [
        shared_peaks(blocks[-1].raw, other_blocks[-1].raw)
        for blocks, other_blocks in zip(by_trace, others, strict=True)
    ]
    return estimate_mean([overlap for overlap in overlaps if overlap is not None])


def draw(numbers, overlap) -> Figure:
    """The specific part and the specific peaks of each choice; the raw peaks that choices share."""
    choices = list(numbers)
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.9), width_ratios=(1, 1, 1.5)
        )
        blocks = evenly_spaced(len(numbers[choices[0]]["raw peaks"]), 5)
        panels = (
            (left, "specific part", "specific part (SD)"),
            (middle, "specific peaks", "specific peaks a trace"),
        )
        for axes, key, label in panels:
            for i, block in enumerate(blocks):
                estimates = [numbers[choice][key][block] for choice in choices]
                shift = 0.13 * (i - (len(blocks) - 1) / 2)
                dots(axes, estimates, COLOURS[i], shift=shift, label=f"block {block}")
            axes.axvline(0, color="black", linewidth=0.5)
            axes.set_yticks(range(len(choices)), choices if axes is left else [""] * len(choices))
            axes.set_ylim(len(choices) - 0.5, -0.5)
            axes.set_xlabel(label)
        draw_overlap(right, choices, overlap)
        legend_above(figure, left)
    return figure


def draw_overlap(axes: Axes, choices: Sequence[str], overlap) -> None:
    """Jaccard overlap of raw peaks, choice by choice."""
    values = np.array(
        [[overlap[choice, other].mean or 0.0 for other in choices] for choice in choices]
    )
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 else "black"
        text = f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_xticks(range(len(choices)), choices, rotation=40, ha="right")
    axes.set_yticks([])
    axes.set_title("raw peaks shared (Jaccard, last block)")


def finding(numbers, overlap, last: str) -> Finding:
    """Whether raw peaks stay the same steps under choices other than the paper's."""
    papers = name(OF_PAPER)
    others = {choice: overlap[papers, choice] for choice in numbers if choice != papers}
    least, most = (
        extreme(others, key=lambda choice: others[choice].mean or 0.0) for extreme in (min, max)
    )
    parts = {choice: row["specific part"][-1] for choice, row in numbers.items()}
    low, high = (
        extreme(parts, key=lambda choice: parts[choice].mean or 0.0) for extreme in (min, max)
    )
    return Finding(
        about="paper 1, the answer state; criticism: no chat template, and the answer state is "
        "the last token of the solution",
        claim="Peaks belong to the trace: how the gold answer is read is a detail.",
        tests=half_shared(
            {
                f"peaks shared with {choice!r}, less one half of them": share
                for choice, share in others.items()
            }
        ),
        text=f"At {last}, of the raw peaks of the paper's choice ({papers}) or of another, "
        f"{with_interval(others[most], 100, 0)} % are of both with {most!r}, the most, and "
        f"{with_interval(others[least], 100, 0)} % with {least!r}, the least. The specific "
        f"part lies between {with_interval(parts[low], digits=2)} standard deviations ({low}) "
        f"and {with_interval(parts[high], digits=2)} ({high}).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
