"""What changes when a block runs again on its own output at thinking tokens (RR of paper 1).

python -m experiments.recycling
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.study import THINKING_WORDS, Study, baseline_traces, save, saved_evaluation
from experiments.summaries import accuracies, affine, with_interval
from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import Estimate, estimate_crossed
from mi_lens.evaluation.comparison import GAIN, Comparison, compare_all
from mi_lens.evaluation.table import powers
from mi_lens.interventions.protocol import Trigger
from mi_lens.report.plots.style import COLOURS, GREY, PAGE, curve, legend_above, style


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking tokens at which a block runs again.
        passes: Numbers of further runs; each number is tried by itself.
        layers: Blocks that run again, each tried by itself; none means all blocks.
        draws: Number of sets of control words, which the model writes as often.
    """

    limit: int = 150
    words: tuple[str, ...] = THINKING_WORDS
    passes: tuple[int, ...] = (1, 2, 4)
    layers: tuple[int, ...] = ()
    draws: int = 5


# Block 23 of Llama-8B's 32, counted from 0, as a fraction of the last.
PAPER_DEPTH = 23 / 31
# Gain that would matter. It is small, because the paper's setting changes few answers at all: a
# margin of five points would be excluded by that alone.
POINTS = 1.0
Key = tuple[Trigger, int, int]  # Trigger, block, passes.


def main(config: Config) -> None:
    """Recycles every block at the words and at control words, with both triggers."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    baseline = baseline_traces(config, model, problems)
    controls = mi_lens.matched_controls(
        model.tokenizer, baseline, config.words, draws=config.draws, seed=config.seed
    )
    layers = config.layers or range(model.cfg.n_layers)
    keys: list[Key] = list(product(get_args(Trigger), layers, config.passes))
    at_words = {key: _condition(key, config.words, "") for key in keys}
    at_controls = {
        key: [
            _condition(key, control.words, f", control {i}")
            for i, control in enumerate(controls, 1)
        ]
        for key in keys
        if key[2] == config.passes[0]
    }
    conditions = [mi_lens.Condition(), *at_words.values(), *chain(*at_controls.values())]
    evaluation = saved_evaluation(config, model, problems, conditions)
    arms = [evaluation.arm(condition.name) for condition in at_words.values()]
    compared = dict(
        zip(at_words, compare_all(arms, evaluation.arm(evaluation.names[0])), strict=True)
    )
    of_controls, more = control_differences(evaluation, at_words, at_controls)
    print(f"points less baseline{'words':>24}{'control words':>32}")
    for key, comparison in compared.items():
        change = with_interval(comparison.difference, 100)
        control = with_interval(of_controls[key], 100) if key in of_controls else ""
        print(f"{comparison.name:<26}{change:>22}{control:>28}")
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(compared, of_controls),
        finding(compared, of_controls, more),
        {
            "comparisons": evaluation.comparisons(),
            "controls": controls,
            "difference at controls": of_controls,
            "more than at controls": more,
            "conditions": evaluation.conditions,
        },
    )


def control_differences(
    evaluation: mi_lens.Evaluation,
    at_words: Mapping[Key, mi_lens.Condition],
    at_controls: Mapping[Key, Sequence[mi_lens.Condition]],
) -> tuple[dict[Key, Estimate], dict[Key, Estimate]]:
    """Accuracy at control words less baseline, and accuracy at the words less that."""
    baseline = accuracies(evaluation, evaluation.names[0])
    of_controls, more = {}, {}
    for key, conditions in at_controls.items():
        by_control = np.array([accuracies(evaluation, condition.name) for condition in conditions])
        of_controls[key] = estimate_crossed(by_control - baseline)
        more[key] = estimate_crossed(accuracies(evaluation, at_words[key].name) - by_control)
    return of_controls, more


def _condition(key: Key, words: tuple[str, ...], suffix: str) -> mi_lens.Condition:
    trigger, block, passes = key
    recycle = mi_lens.Recycle(block, words, passes, trigger)
    return mi_lens.Condition((recycle,), name=f"{trigger}, block {block}, x{passes}{suffix}")


def draw(compared: Mapping[Key, Comparison], controls: Mapping[Key, Estimate]) -> Figure:
    """Change of accuracy by block: one panel per trigger, one line per number of passes."""
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.4), sharey=True)
        for axes, trigger in zip(panels, get_args(Trigger), strict=True):
            axes.axhline(0, color="black", linewidth=0.5)
            keys = [key for key in controls if key[0] == trigger]
            blocks, estimates = [key[1] for key in keys], [controls[key] for key in keys]
            curve(axes, blocks, estimates, GREY, "control words, x1", scale=100, marker="s")
            passes = sorted({key[2] for key in compared})
            for colour, runs in zip(COLOURS, passes, strict=False):
                keys = [key for key in compared if (key[0], key[2]) == (trigger, runs)]
                blocks = [key[1] for key in keys]
                estimates = [compared[key].difference for key in keys]
                label = f"x{runs}: {runs} further run{'s' if runs > 1 else ''}"
                curve(axes, blocks, estimates, colour, label, scale=100, marker="o")
            verb = "emits" if trigger == "candidate" else "reads"
            axes.set_title(f"{trigger}: the position that {verb} the word")
            axes.set_xlabel("block that is run again")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("accuracy less baseline\n(points, 95 %)")
        legend_above(figure, panels[0])
    return figure


def of_paper(keys: Iterable[Key]) -> Key:
    """The setting of paper 1's code among those tried: candidates, one further run, its depth."""
    candidates = [key for key in keys if key[0] == "candidate"]
    deepest = max(key[1] for key in candidates)
    return min(candidates, key=lambda key: (abs(key[1] - PAPER_DEPTH * deepest), key[2]))


def changes_answers(comparison: Comparison) -> Premise:
    """Whether recycling changes as many answers as a gain that would matter takes."""
    changed = comparison.mended + comparison.broken
    share = estimate_share([float(i < changed) for i in range(comparison.problems)])
    return Premise(
        text=f"A gain of {POINTS:g} point takes as many answers that change: with "
        f"{comparison.name}, the setting of the paper's code, {changed} of {comparison.problems} "
        f"do, {with_interval(share, 100)} %.",
        otherwise="premise not met",
        value=affine(share, 100),
        least=POINTS,
    )


def finding(
    compared: Mapping[Key, Comparison],
    controls: Mapping[Key, Estimate],
    more: Mapping[Key, Estimate],
) -> Finding:
    """Whether one further run raises accuracy at any block, and more than at control words."""
    once = {key: compared[key] for key in more}
    ordered = sorted(once.values(), key=lambda comparison: comparison.difference.mean or 0.0)
    worst, best = ordered[0], ordered[-1]
    ties = sum(comparison.difference.mean == best.difference.mean for comparison in ordered) - 1
    at_best = f"{best.name}{f' and {ties} others alike' if ties else ''}"
    papers = of_paper(once)
    others = sorted(100 * (estimate.mean or 0.0) for estimate in controls.values())
    again = sorted(
        100 * (comparison.difference.mean or 0.0)
        for key, comparison in compared.items()
        if key not in once
    )
    passes_again = {passes for _, _, passes in compared} - {passes for _, _, passes in once}
    numbers = " or ".join(map(str, sorted(passes_again)))
    last = f"; {numbers} runs change it by {again[0]:+.1f} to {again[-1]:+.1f}" if again else ""
    return Finding(
        about="paper 1, table of RR; commentary on the paper on several passes",
        claim="Running a block again at thinking tokens (RR) raises accuracy.",
        premises=(changes_answers(once[papers]),),
        tests=(
            ClaimTest(
                f"accuracy with {once[papers].name} less that without recycling",
                affine(once[papers].difference, 100),
                POINTS,
                "points",
            ),
            ClaimTest(
                f"accuracy with {once[papers].name} less that at control words",
                affine(more[papers], 100),
                POINTS,
                "points",
            ),
        ),
        text=f"One further run changes accuracy by {with_interval(best.difference, 100)} points at "
        f"best ({at_best}; p = {best.adjusted:.2g}) and {with_interval(worst.difference, 100)} at "
        f"worst ({worst.name}; p = {worst.adjusted:.2g}; Holm over {len(compared)}), on "
        f"{best.problems} problems that find a gain of {100 * GAIN:.0f} points with probability "
        f"{powers(best)} if so many change. At control words written as often it changes by "
        f"{others[0]:+.1f} to {others[-1]:+.1f}{last}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
