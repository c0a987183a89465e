"""SEAL's ablations: which thoughts the vector is made of, where it is added, how much of it.

python -m experiments.steering_ablations
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import mi_lens
from experiments.steering import (
    KEPT,
    SteeringStudy,
    block_inputs,
    short_table,
    vector_traces,
)
from experiments.study import Finding, Verdict, evaluation, said, save
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.comparison import compare_all
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, style
from mi_lens.steering.seal import Recipe


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        alphas: How much of the vector; 1 is SEAL's.
        layers: Blocks at whose inputs to steer; none is all but the first.
    """

    limit: int = 100
    alphas: tuple[float, ...] = (-1.0, 0.25, 0.5, 1.0, 2.0)
    layers: tuple[int, ...] = ()


# Name of a panel to what is tried there: a name for the axis, and the condition's.
Panels = dict[str, dict[str, str]]


def main(config: Config) -> None:
    """Varies one thing at a time, each beside a random direction of the same norm."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    traces = vector_traces(config, model, problems)
    published = config.hook_name(model)
    layers = [f"blocks.{n}.hook_resid_pre" for n in config.layers] or block_inputs(model)
    made = {
        recipe: mi_lens.extract_steering_vectors(
            model, traces, list(dict.fromkeys([published, *layers])), recipe=recipe
        )
        for recipe in get_args(Recipe)
    }
    conditions: dict[str, mi_lens.Condition] = {"baseline": mi_lens.Condition()}
    panels: Panels = {"thoughts": {}, "layer": {}, "alpha": {}}

    def add(panel: str, label: str, vector: mi_lens.SteeringVector, alpha: float = 1.0) -> None:
        name = f"{vector.recipe} at {vector.hook_name}, {alpha:g}"
        panels[panel][label] = name
        for variant in ("add", "random"):
            steer = mi_lens.Steer(vector, alpha=alpha, variant=variant, seed=config.seed)
            key = name if variant == "add" else f"random: {name}"
            conditions[key] = mi_lens.Condition((steer,), name=key)

    for recipe, vectors in made.items():
        add("thoughts", recipe, vectors[published])
    for layer in layers:
        add("layer", layer.split(".")[1], made["E-RT"][layer])
    for alpha in config.alphas:
        add("alpha", f"{alpha:g}", made["E-RT"][published], alpha)
    found = evaluation(config, model, problems, list(conditions.values()), kept=KEPT)
    print(short_table(found))
    best = f"E-RT at {published}, 1"
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(found, panels, best),
        finding(found, panels, best),
        {
            "panels": panels,
            "norms": {recipe: {name: v.norm for name, v in vectors.items()}
                      for recipe, vectors in made.items()},
            "comparisons": found.comparisons(),
        },
    )  # fmt: skip


LABELS = {
    "thoughts": "means subtracted",
    "layer": "block at whose input",
    "alpha": "alpha",
}


def draw(found: mi_lens.Evaluation, panels: Panels, best: str) -> Figure:
    """Accuracy above and tokens below, a column an ablation; random directions grey squares."""
    by_name = {one.name: one for one in found.comparisons()}
    with style():
        figure, axes = plt.subplots(
            2, 3, figsize=(PAGE, 3.6), sharex="col", sharey="row",
            width_ratios=[max(4, len(some)) for some in panels.values()],
        )  # fmt: skip
        rows = (("difference", 100.0, BLUE), ("tokens", 1.0, ORANGE))
        for line, (field, scale, colour) in zip(axes, rows, strict=True):
            for one, panel in zip(line, panels.values(), strict=True):
                one.axhline(0, color="black", linewidth=0.5)
                names = list(panel.values())
                for prefix, shade, marker, shift in (
                    ("random: ", GREY, "s", 0.14),
                    ("", colour, "o", -0.14),
                ):
                    estimates = [getattr(by_name[prefix + name], field) for name in names]
                    columns(one, estimates, shade, marker, shift, scale)
                if best in names:
                    one.axvspan(
                        names.index(best) - 0.4,
                        names.index(best) + 0.4,
                        color=GREY,
                        alpha=0.12,
                        lw=0,
                    )
        for one, (name, panel) in zip(axes[1], panels.items(), strict=True):
            one.set_xticks(range(len(panel)), list(panel))
            one.set_xlabel(LABELS[name])
        axes[0, 0].set_ylabel("accuracy less baseline\n(points, 95 %)")
        axes[1, 0].set_ylabel("tokens less baseline\n(95 %)")
        figure.legend(
            [Line2D([], [], marker=m, color=c, markersize=3, linewidth=1)
             for m, c in (("o", BLUE), ("o", ORANGE), ("s", GREY))],
            ["accuracy, steered", "tokens, steered", "random direction of the same norm"],
            loc="outside upper center", ncols=3,
        )  # fmt: skip
    return figure


def columns(axes, estimates: Sequence[Estimate], colour, marker, shift, scale) -> None:
    """Estimates with their intervals, one a column."""
    for x, one in enumerate(estimates):
        if one.mean is not None:
            axes.plot(x + shift, scale * one.mean, marker, color=colour, markersize=3)
        if one.low is not None and one.high is not None:
            axes.plot([x + shift] * 2, [scale * one.low, scale * one.high], color=colour)


def finding(found: mi_lens.Evaluation, panels: Panels, best: str) -> Finding:
    """The published choice against every other, by exact tests with Holm's correction."""
    others = {name: panel for panel, some in panels.items() for name in some.values()}
    others.pop(best)
    pairs = compare_all(map(found.arm, others), found.arm(best))
    better, worse = (
        [
            one.name
            for one in pairs
            if one.adjusted <= 0.05 and sign * (one.difference.mean or 0) > 0
        ]
        for sign in (1, -1)
    )
    base = {one.name: one for one in found.comparisons()}
    most = max(base[name].accuracy for name in [best, *others])
    top = [name for name in [best, *others] if base[name].accuracy == most]
    gains = base[best].adjusted <= 0.05 and (base[best].difference.mean or 0) > 0
    verdict: Verdict = (
        "against" if better else "open" if not worse else "with" if gains else "in part"
    )
    named = " and ".join(
        f"{name} ({said(base[name].difference, 100)}, Holm p = {base[name].adjusted:.2g})"
        for name in top[:3]
    )
    steered, random = base[best], base[f"random: {best}"]
    return Finding(
        about="paper 2, ablations of thought types, layer and strength",
        claim="Reflection and transition together, in the later layers, with strength 1, are best.",
        verdict=verdict,
        text=f"Of {len(others)} other choices {len(better)} are more accurate than the published "
        f"one and {len(worse)} less (exact tests, Holm, .05); that one changes accuracy by "
        f"{said(steered.difference, 100)} points and tokens by {said(steered.tokens)}, a random "
        f"direction in its place by {said(random.difference, 100)} and {said(random.tokens)}. "
        f"Highest of all after the fact (means, place, alpha; points from no steering, on "
        f"{steered.problems} problems): {named}"
        + (f" and {len(top) - 3} more as high." if len(top) > 3 else "."),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
