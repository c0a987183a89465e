"""A block run again on its own output at thinking tokens, block by block (RR of paper 1).

python -m experiments.recycling
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import mi_lens
from experiments.study import (
    THINKING_WORDS,
    Finding,
    Study,
    Verdict,
    baseline_traces,
    correct,
    evaluation,
    said,
    save,
    side,
)
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import Comparison, compare_all
from mi_lens.interventions.protocol import Trigger
from mi_lens.report.plots.style import COLOURS, GREY, PAGE, curve, legend_above, style


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking tokens, where a block is run again.
        passes: Further runs of the block.
        layers: Blocks, one after another; none is all of the model's.
        draws: Sets of control words, which are written as often.
    """

    limit: int = 150
    words: tuple[str, ...] = THINKING_WORDS
    passes: tuple[int, ...] = (1, 2, 4)
    layers: tuple[int, ...] = ()
    draws: int = 2


Key = tuple[Trigger, int, int]  # Trigger, block, passes.
GAIN = 0.05  # That `Comparison.power` is of; intervals below it at every block exclude it.


def main(config: Config) -> None:
    """Recycles at the words, and at their controls, in both readings of the paper."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    controls = mi_lens.matched_controls(
        model.tokenizer, baseline_traces(config, model, problems), config.words,
        draws=config.draws, seed=config.seed,
    )  # fmt: skip
    layers = config.layers or range(model.cfg.n_layers)
    keys: list[Key] = [(t, b, n) for t in get_args(Trigger) for b in layers for n in config.passes]
    acts = {key: _condition(key, config.words, "") for key in keys}
    beside = {
        key: [_condition(key, one.words, f", control {i}") for i, one in enumerate(controls, 1)]
        for key in keys
        if key[2] == config.passes[0]
    }
    conditions = [*acts.values(), *(one for some in beside.values() for one in some)]
    found = evaluation(config, model, problems, [mi_lens.Condition(), *conditions])
    base = found.arm(found.names[0])
    arms = [found.arm(condition.name) for condition in acts.values()]
    compared = dict(zip(acts, compare_all(arms, base), strict=True))
    accuracy = {condition.name: correct(found, condition.name) for condition in conditions}
    at_controls = {
        key: np.mean([accuracy[one.name] for one in some], 0) - correct(found, base.name)
        for key, some in beside.items()
    }
    more = {
        key: estimate_mean((accuracy[acts[key].name] - correct(found, base.name) - other).tolist())
        for key, other in at_controls.items()
    }
    of_controls = {key: estimate_mean(other.tolist()) for key, other in at_controls.items()}
    print(f"points less baseline{'words':>24}{'control words':>32}")
    for key, one in compared.items():
        beside_it = said(of_controls[key], 100) if key in of_controls else ""
        print(f"{one.name:<26}{said(one.difference, 100):>22}{beside_it:>28}")
    save(
        config, {config.model: mi_lens.model_fingerprint(model)}, draw(compared, of_controls),
        finding(compared, of_controls, more),
        {
            "comparisons": found.comparisons(), "controls": controls,
            "difference at controls": of_controls, "more than at controls": more,
            "conditions": found.conditions,
        },
    )  # fmt: skip


def _condition(key: Key, words: tuple[str, ...], what: str) -> mi_lens.Condition:
    trigger, block, passes = key
    recycle = mi_lens.Recycle(block, words, passes, trigger)
    return mi_lens.Condition((recycle,), name=f"{trigger}, block {block}, x{passes}{what}")


def draw(compared: Mapping[Key, Comparison], controls: Mapping[Key, Estimate]) -> Figure:
    """What recycling changes against the block, a panel a reading, a line a number of passes."""
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.4), sharey=True)
        for axes, trigger in zip(panels, get_args(Trigger), strict=True):
            axes.axhline(0, color="black", linewidth=0.5)
            some = {key: one for key, one in controls.items() if key[0] == trigger}
            curve(
                axes, [key[1] for key in some], list(some.values()), GREY, "control words, x1",
                scale=100, marker="s",
            )  # fmt: skip
            passes = sorted({key[2] for key in compared})
            for colour, n in zip(COLOURS, passes, strict=False):
                these = [key for key in compared if (key[0], key[2]) == (trigger, n)]
                curve(
                    axes, [key[1] for key in these], [compared[key].difference for key in these],
                    colour, f"x{n}: {n} further run{'s' if n > 1 else ''}", scale=100, marker="o",
                )  # fmt: skip
            where = "emits" if trigger == "candidate" else "reads"
            axes.set_title(f"{trigger}: the position that {where} the word")
            axes.set_xlabel("block that is run again")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("accuracy less baseline\n(points, 95 %)")
        legend_above(figure, panels[0])
    return figure


def finding(
    compared: Mapping[Key, Comparison],
    controls: Mapping[Key, Estimate],
    more: Mapping[Key, Estimate],
) -> Finding:
    """Whether a single further run gains accuracy anywhere, and more than at other words."""
    once = {key: compared[key] for key in more}
    gains = [key for key, one in once.items() if one.adjusted <= 0.05 and side(one.difference) > 0]
    specific = [key for key in gains if side(more[key]) > 0]
    ordered = sorted(once.values(), key=lambda one: one.difference.mean or 0.0)
    worst, best = ordered[0], ordered[-1]
    ties = sum(one.difference.mean == best.difference.mean for one in ordered) - 1
    at_best = f"{best.name}{f' and {ties} others alike' if ties else ''}"
    lost = [one for one in once.values() if one.adjusted <= 0.05 and side(one.difference) < 0]
    # Where every outcome is alike the interval has no width, and power says what was excluded.
    excluded = best.power >= 0.8 and all(
        one.difference.high is not None and one.difference.high < GAIN for one in once.values()
    )
    verdict: Verdict = "against" if lost or excluded else "open"
    if gains:
        verdict = "with" if specific else "in part"
    others = sorted(100 * (one.mean or 0.0) for one in controls.values())
    again = sorted(100 * (c.difference.mean or 0.0) for k, c in compared.items() if k not in once)
    numbers = " or ".join(map(str, sorted({n for _, _, n in compared} - {n for _, _, n in once})))
    last = f"; {numbers} runs change it by {again[0]:+.1f} to {again[-1]:+.1f}" if again else ""
    return Finding(
        about="paper 1, table of RR; commentary on the paper on several passes",
        claim="Running a block again at thinking tokens (RR) raises accuracy.",
        verdict=verdict,
        text=f"One further run changes accuracy by {said(best.difference, 100)} points at best "
        f"({at_best}; p = {best.adjusted:.2g}) and {said(worst.difference, 100)} at worst "
        f"({worst.name}; p = {worst.adjusted:.2g}; Holm over {len(compared)}), on {best.problems} "
        f"problems that find a gain of {100 * GAIN:.0f} points with probability {best.power:.2f} "
        "(p <= .05, one test). At control words written as often it changes by "
        f"{others[0]:+.1f} to {others[-1]:+.1f}{last}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
