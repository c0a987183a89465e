"""SEAL's ablations: the thoughts that make the vector, the layer, and the strength.

python -m experiments.steering_ablations
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.steering import (
    RESULTS,
    UNREFLECTED,
    SteeringStudy,
    beyond_random,
    block_inputs,
    excess_premise,
    short_table,
    vector_traces,
)
from experiments.study import save, saved_evaluation
from experiments.summaries import affine, with_interval
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.comparison import compare_all
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, style


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        alphas: Strengths of the vector; SEAL's is 1.
        layers: Blocks at whose inputs to steer; none means all blocks but the first.
        draws: Number of random directions in the place of each vector.
    """

    limit: int = 100
    alphas: tuple[float, ...] = (-1.0, 0.25, 0.5, 1.0, 2.0)
    layers: tuple[int, ...] = ()
    draws: int = 5


RECIPES = ("E-RT", "E-R", "E-T", "E-R-T")

# For every panel, the label of each choice and the name of its condition.
Panels = dict[str, dict[str, str]]


def main(config: Config) -> None:
    """Varies one choice at a time, each beside random directions of the same norm."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    traces = vector_traces(config, model, problems)
    published = config.hook_name(model)
    layers = [f"blocks.{layer}.hook_resid_pre" for layer in config.layers] or block_inputs(model)
    hook_names = list(dict.fromkeys([published, *layers]))
    by_recipe = {
        recipe: mi_lens.extract_steering_vectors(model, traces, hook_names, recipe=recipe)
        for recipe in RECIPES
    }
    conditions = {condition.name: condition for condition in (mi_lens.Condition(), UNREFLECTED)}
    panels: Panels = {"thoughts": {}, "layer": {}, "alpha": {}}

    def add(panel: str, label: str, vector: mi_lens.SteeringVector, alpha: float = 1.0) -> None:
        name = f"{vector.recipe} at {vector.hook_name}, {alpha:g}"
        panels[panel][label] = name
        steer = mi_lens.Steer(vector, alpha=alpha)
        conditions[name] = mi_lens.Condition((steer,), name=name)
        for draw in range(config.draws):
            steer = mi_lens.Steer(vector, alpha=alpha, variant="random", seed=config.seed + draw)
            key = f"random {draw + 1}: {name}"
            conditions[key] = mi_lens.Condition((steer,), name=key)

    for recipe, vectors in by_recipe.items():
        add("thoughts", recipe, vectors[published])
    for layer in layers:
        add("layer", layer.split(".")[1], by_recipe["E-RT"][layer])
    for alpha in config.alphas:
        add("alpha", f"{alpha:g}", by_recipe["E-RT"][published], alpha)
    evaluation = saved_evaluation(
        config, model, problems, list(conditions.values()), folder=RESULTS
    )
    print(short_table(evaluation))
    best = f"E-RT at {published}, 1"
    random = at_random(evaluation, panels)
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(evaluation, panels, best, random),
        finding(evaluation, panels, best, random),
        {
            "panels": panels,
            "norms": {
                recipe: {name: vector.norm for name, vector in vectors.items()}
                for recipe, vectors in by_recipe.items()
            },
            "random directions": {
                f"{name}: {field}": change for (name, field), change in random.items()
            },
            "comparisons": evaluation.comparisons(),
        },
    )


LABELS = {
    "thoughts": "means subtracted",
    "layer": "block at whose input",
    "alpha": "alpha",
}


Random = dict[tuple[str, str], Estimate]  # By choice, and "difference" or "tokens".


def at_random(evaluation: mi_lens.Evaluation, panels: Panels) -> Random:
    """Change of accuracy and of tokens by random directions in the place of each choice."""
    baseline = evaluation.arm(evaluation.names[0])
    return {
        (name, changed): affine(
            beyond_random(
                baseline,
                [evaluation.arm(key) for key in evaluation.names if key.endswith(f": {name}")],
                field,
            ),
            -1,
        )
        for panel in panels.values()
        for name in panel.values()
        for changed, field in (("difference", "correct"), ("tokens", "tokens"))
    }


def draw(evaluation: mi_lens.Evaluation, panels: Panels, best: str, random: Random) -> Figure:
    """Accuracy above, tokens below, one column per ablation; random directions are grey squares."""
    by_name = {comparison.name: comparison for comparison in evaluation.comparisons()}
    widths = [max(4, len(panel)) for panel in panels.values()]
    with style():
        figure, grid = plt.subplots(
            2, 3, figsize=(PAGE, 3.6), sharex="col", sharey="row", width_ratios=widths
        )
        rows = (("difference", 100.0, BLUE), ("tokens", 1.0, ORANGE))
        for line, (field, scale, colour) in zip(grid, rows, strict=True):
            for axes, panel in zip(line, panels.values(), strict=True):
                axes.axhline(0, color="black", linewidth=0.5)
                names = list(panel.values())
                controls = [random[name, field] for name in names]
                draw_columns(axes, controls, GREY, "s", 0.14, scale)
                estimates = [getattr(by_name[name], field) for name in names]
                draw_columns(axes, estimates, colour, "o", -0.14, scale)
                if best in names:
                    place = names.index(best)
                    axes.axvspan(place - 0.4, place + 0.4, color=GREY, alpha=0.12, lw=0)
        for axes, (name, panel) in zip(grid[1], panels.items(), strict=True):
            axes.set_xticks(range(len(panel)), list(panel))
            axes.set_xlabel(LABELS[name])
        grid[0, 0].set_ylabel("accuracy less baseline\n(points, 95 %)")
        grid[1, 0].set_ylabel("tokens less baseline\n(95 %)")
        handles = [
            Line2D([], [], marker=marker, color=colour, markersize=3, linewidth=1)
            for marker, colour in (("o", BLUE), ("o", ORANGE), ("s", GREY))
        ]
        labels = ["accuracy, steered", "tokens, steered", "random directions of the same norm"]
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def draw_columns(
    axes: Axes,
    estimates: Sequence[Estimate],
    colour: str,
    marker: str,
    shift: float,
    scale: float,
) -> None:
    """Draws estimates with their intervals, one per column."""
    for column, estimate in enumerate(estimates):
        x, low, high = column + shift, estimate.low, estimate.high
        if estimate.mean is not None:
            axes.plot(x, scale * estimate.mean, marker, color=colour, markersize=3)
        if low is not None and high is not None:
            axes.plot([x] * 2, [scale * low, scale * high], color=colour)


def finding(evaluation: mi_lens.Evaluation, panels: Panels, best: str, random: Random) -> Finding:
    """The published choice compared with every other, by exact tests with Holm's correction."""
    others = {name: panel for panel, choices in panels.items() for name in choices.values()}
    others.pop(best)
    pairs = compare_all(map(evaluation.arm, others), evaluation.arm(best))
    better, worse = (
        [
            pair.name
            for pair in pairs
            if pair.adjusted <= 0.05 and sign * (pair.difference.mean or 0) > 0
        ]
        for sign in (1, -1)
    )
    by_name = {comparison.name: comparison for comparison in evaluation.comparisons()}
    most = max(by_name[name].accuracy for name in [best, *others])
    top = [name for name in [best, *others] if by_name[name].accuracy == most]
    named = " and ".join(
        f"{name} ({with_interval(by_name[name].difference, 100)}, Holm p = "
        f"{by_name[name].adjusted:.2g})"
        for name in top[:3]
    )
    steered = by_name[best]
    return Finding(
        about="paper 2, ablations of thought types, layer and strength",
        claim="Reflection and transition together, in the later layers, with strength 1, are best.",
        premises=(excess_premise(evaluation),),
        tests=tuple(
            ClaimTest(
                f"accuracy with the published choice less that with {pair.name}",
                affine(pair.difference, -100),
                0.0,
                "points",
            )
            for pair in pairs
        ),
        text=f"Of {len(others)} other choices {len(better)} are more accurate than the published "
        f"one and {len(worse)} less (exact tests, Holm, .05); that one changes accuracy by "
        f"{with_interval(steered.difference, 100)} points and tokens by "
        f"{with_interval(steered.tokens)}, random directions in its place by "
        f"{with_interval(random[best, 'difference'], 100)} and "
        f"{with_interval(random[best, 'tokens'])}. Highest of "
        f"all after the fact (means, place, alpha; points from no steering, on {steered.problems} "
        f"problems): {named}" + (f" and {len(top) - 3} more as high." if len(top) > 3 else "."),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
