"""The answer state in six ways: do the same steps peak whichever answer token is read?

python -m experiments.answer_state_choices
"""

from collections.abc import Sequence
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
from experiments.study import Finding, Study, Verdict, baseline_traces, said, save
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.controls import Calibration, mismatched_gold
from mi_lens.information.per_trace.peaks import MINIMUM_STEPS
from mi_lens.report.plots.style import COLOURS, PAGE, dots, legend_above, style
from mi_lens.states.answer_state import AnswerSite

Choice = tuple[AnswerSite, bool]
CHOICES: tuple[Choice, ...] = tuple(product(get_args(AnswerSite), (False, True)))
PAPERS: Choice = ("solution_last", False)


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run; problems need worked solutions.

    Attributes:
        mismatched: Other problems' answers that every trace is compared with, at most.
    """

    limit: int = 60
    mismatched: int = 40


def main(config: Config) -> None:
    """Reads greedy traces at every block against each choice of the answer state."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    lacking = [problem.id for problem in problems if not problem.solution]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(problems)} problems have no worked solution (the first is "
            f"{lacking[0]}), which one of the choices reads; give problems with solutions"
        )
    traces = [t for t in baseline_traces(config, model, problems) if len(t) >= MINIMUM_STEPS]
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    read = {name(choice): calibrations(model, traces, hooks, choice, config) for choice in CHOICES}
    numbers = {
        choice: {
            "specific part": over_traces(of_choice, lambda c: float(c.specific.mean())),
            "specific peaks": over_traces(of_choice, lambda c: float(len(c.peaks()))),
            "raw peaks": over_traces(of_choice, lambda c: float(len(raw_peaks(c)))),
        }
        for choice, of_choice in read.items()
    }
    overlap = {
        (a, b): estimate_mean(shared([c[-1] for c in read[a]], [c[-1] for c in read[b]]))
        for a, b in product(read, repeat=2)
    }
    for choice, row in numbers.items():
        print(f"{choice:<28}" + "; ".join(f"{key} {said(row[key][-1], digits=2)}" for key in row))
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(numbers, overlap),
        finding(numbers, overlap, hooks[-1]),
        {"hook_names": hooks, "choices": numbers,
         "raw peaks shared (last block)": {" / ".join(pair): e for pair, e in overlap.items()}},
    )  # fmt: skip


def name(choice: Choice) -> str:
    """As "answer, last token, chat"."""
    what, where = choice[0].split("_")
    return f"{what}, {where}{', chat' if choice[1] else ''}"


def calibrations(
    model, traces: Sequence[mi_lens.Trace], hooks: Sequence[str], choice: Choice, config: Config
) -> list[list[Calibration]]:
    """For every trace and block the trajectory beside other problems' answers."""
    site, template = choice
    problems = [trace.problem for trace in traces if trace.problem is not None]
    answers = [
        mi_lens.answer_state(model, one, hooks, site=site, template=template) for one in problems
    ]
    found = []
    for i, trace in enumerate(tqdm(traces, desc=name(choice), unit="trace", disable=None)):
        different = [j for j, one in enumerate(problems) if one.answer != problems[i].answer]
        drawn = Random(f"{config.seed}/{i}").sample(
            different, min(config.mismatched, len(different))
        )
        (states,) = mi_lens.capture(model, [trace], hooks)
        found.append([
            mismatched_gold(
                states[hook], answers[i][hook], torch.stack([answers[j][hook] for j in drawn])
            )
            for hook in hooks
        ])  # fmt: skip
    return found


def over_traces(found: list[list[Calibration]], value) -> list[Estimate]:
    """Means over traces (one a problem), block by block."""
    return [estimate_mean(list(map(value, block))) for block in zip(*found, strict=True)]


def raw_peaks(one: Calibration) -> set[int]:
    """As the paper finds them."""
    return set(mi_lens.find_peaks(one.raw).tolist())


def shared(a: Sequence[Calibration], b: Sequence[Calibration]) -> list[float]:
    """For every trace, peaks of both over peaks of either."""
    pairs = [(raw_peaks(x), raw_peaks(y)) for x, y in zip(a, b, strict=True)]
    return [len(x & y) / len(x | y) for x, y in pairs if x | y]


def draw(numbers, overlap) -> Figure:
    """The specific part and specific peaks of each choice, and which raw peaks choices share."""
    choices = list(numbers)
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.9), width_ratios=(1, 1, 1.5)
        )
        blocks = len(numbers[choices[0]]["raw peaks"])
        shown = ((left, "specific part", "specific part (SD)"),
                 (middle, "specific peaks", "specific peaks a trace"))  # fmt: skip
        for axes, key, label in shown:
            picked = sorted({round(i) for i in np.linspace(0, blocks - 1, min(blocks, 5))})
            for i, block in enumerate(picked):
                dots(axes, [numbers[c][key][block] for c in choices], COLOURS[i],
                     shift=0.13 * (i - (len(picked) - 1) / 2), label=f"block {block}")  # fmt: skip
            axes.axvline(0, color="black", linewidth=0.5)
            axes.set_yticks(range(len(choices)), choices if axes is left else [""] * len(choices))
            axes.set_ylim(len(choices) - 0.5, -0.5)
            axes.set_xlabel(label)
        draw_overlap(right, choices, overlap)
        legend_above(figure, left)
    return figure


def draw_overlap(axes: Axes, choices: Sequence[str], overlap) -> None:
    """Jaccard overlap of raw peaks, choice by choice."""
    values = np.array([[overlap[a, b].mean or 0.0 for b in choices] for a in choices])
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5,
                  color="white" if value > 0.6 else "black")  # fmt: skip
    axes.set_xticks(range(len(choices)), choices, rotation=40, ha="right")
    axes.set_yticks([])
    axes.set_title("raw peaks shared (Jaccard, last block)")


def finding(numbers, overlap, last: str) -> Finding:
    """Whether raw peaks are the same steps under every other choice than the paper's."""
    papers = name(PAPERS)
    others = {choice: overlap[papers, choice] for choice in numbers if choice != papers}
    kept = [one.low is not None and one.low > 0.5 for one in others.values()]
    lost = [one.high is not None and one.high < 0.5 for one in others.values()]
    verdict: Verdict = "with" if all(kept) else "in part" if any(kept) else "open"
    if any(lost):
        verdict = "against"
    least, most = (f(others, key=lambda c: others[c].mean or 0.0) for f in (min, max))
    parts = {choice: row["specific part"][-1] for choice, row in numbers.items()}
    low, high = (f(parts, key=lambda c: parts[c].mean or 0.0) for f in (min, max))
    return Finding(
        about="paper 1, the answer state; criticism: no chat template, and the answer state is "
        "the last token of the solution",
        claim="Peaks belong to the trace: how the gold answer is read is a detail.",
        verdict=verdict,
        text=f"At {last}, of the raw peaks of the paper's choice ({papers}) or of another, "
        f"{said(others[most], 100, 0)} % are of both with {most!r}, the most, and "
        f"{said(others[least], 100, 0)} % with {least!r}, the least. The specific "
        f"part lies between {said(parts[low], digits=2)} standard deviations ({low}) "
        f"and {said(parts[high], digits=2)} ({high}).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
