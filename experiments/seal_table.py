"""SEAL's table, with the controls it lacks: random directions, a tight budget, what was cut off.

python -m experiments.seal_table
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.steering import (
    GAIN,
    KEPT,
    SAVING,
    SteeringStudy,
    as_published_excluded,
    beyond_random,
    block_inputs,
    held_to,
    judged,
    random_directions,
    short_table,
    vector_traces,
)
from experiments.study import Finding, evaluation, outcomes, said, save, side
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, dots, style

NOTHING = Estimate(None, None, None, 0)


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        draws: Random directions.
        words: What SEAL's baseline penalises, in every token that contains it.
        tight: A second budget, of which the same traces are cut off; None takes the median length
            of the baseline's traces.
    """

    draws: int = 5
    words: tuple[str, ...] = ("wait", "alternatively")
    tight: int | None = None


def main(config: Config) -> None:
    """Steers the same problems in every way."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    hook_name = config.hook_name(model)
    vectors = mi_lens.extract_steering_vectors(
        model, vector_traces(config, model, problems), block_inputs(model)
    )
    vector = vectors[hook_name]
    print(vector)
    controls = random_directions(vector, config.draws, config.seed)
    conditions = [
        mi_lens.Condition(),
        mi_lens.Condition((mi_lens.Steer(vector),), name="SEAL"),
        mi_lens.Condition(tuple(map(mi_lens.Steer, vectors.values())), name="SEAL, all layers"),
        mi_lens.Condition((mi_lens.Steer(vector, variant="project"),), name="projected out"),
        mi_lens.Condition(
            (mi_lens.LogitPenalty(config.words, containing=True),), name="logit penalty"
        ),
        *controls,
    ]
    found = evaluation(config, model, problems, conditions, kept=KEPT)
    base = found.arm(found.names[0])
    tight = config.tight or int(np.median([one.tokens for one in base.results]))
    if tight >= config.max_new_tokens:
        raise ValueError(
            f"a tight budget of {tight} tokens, where traces have at most {config.max_new_tokens}: "
            "expected a smaller one; raise --max-new-tokens"
        )
    caps = {config.max_new_tokens: found}
    caps[tight] = mi_lens.Evaluation(
        tuple(r for name in found.names for r in held_to(found.arm(name), tight).results),
        {**found.setting, "max_new_tokens": tight},
    )
    for cap, some in caps.items():
        print(f"\nAt most {cap} tokens\n{short_table(some)}")
    comparisons = {cap: some.comparisons() for cap, some in caps.items()}
    names = [one.name for one in controls]
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(comparisons, names),
        finding(caps, comparisons, names),
        {
            "hook": hook_name, "norm": vector.norm, "reliability": vector.reliability,
            "thoughts": vector.counts, "vector problems": len(vector.problems),
            "comparisons": comparisons,
            "accuracy": {cap: {name: some.arm(name).accuracy() for name in some.names}
                         for cap, some in caps.items()},
            "tokens": {cap: {name: some.arm(name).tokens() for name in some.names}
                       for cap, some in caps.items()},
        },
    )  # fmt: skip


def draw(
    comparisons: Mapping[int, Sequence[mi_lens.Comparison]], controls: Sequence[str]
) -> Figure:
    """Accuracy and tokens at both budgets, and at the tight one what was cut off before, apart."""
    tight = min(comparisons)
    names = [one.name for one in comparisons[tight]]
    with style():
        figure, panels = plt.subplots(
            1, 3, figsize=(PAGE, 0.9 + 0.2 * len(names)), sharey=True, width_ratios=(3, 2, 3)
        )
        series = [(0, cap, "difference", 100.0, f"at most {cap} tokens") for cap in comparisons] + [
            (1, cap, "tokens", 1.0, f"at most {cap} tokens") for cap in comparisons
        ]
        for panel, cap, field, scale, label in series:
            _line(panels[panel], [getattr(one, field) for one in comparisons[cap]], names,
                  controls, cap == tight, scale, label)  # fmt: skip
        for part in ("finished", "capped"):
            estimates = [one.split.get(f"{part} before", NOTHING) for one in comparisons[tight]]
            _line(panels[2], estimates, names, controls, part == "capped", 100.0,
                  f"baseline {part} ({estimates[0].n})")  # fmt: skip
        labels = (
            "accuracy less baseline\n(points, 95 %)",
            "tokens less baseline\n(95 %)",
            f"accuracy less baseline\nat most {tight} tokens (points, 95 %)",
        )
        for axes, label in zip(panels, labels, strict=True):
            axes.axvline(0, color="black", linewidth=0.5)
            axes.set_xlabel(label)
        for axes in (panels[0], panels[2]):
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _line(axes, estimates, names, controls, second: bool, scale, label) -> None:
    """One of two series: dots above or diamonds below; controls grey in both."""
    colour = ORANGE if second else BLUE
    dots(axes, estimates, [GREY if name in controls else colour for name in names], scale=scale,
         shift=0.14 if second else -0.14, markers="D" if second else "o", label=label)  # fmt: skip


def finding(
    caps: Mapping[int, mi_lens.Evaluation],
    comparisons: Mapping[int, Sequence[mi_lens.Comparison]],
    controls: Sequence[str],
) -> Finding:
    """SEAL against no steering and against random directions, at either budget."""
    wide, tight = max(caps), min(caps)
    seal, short = (
        next(one for one in comparisons[cap] if one.name == "SEAL") for cap in (wide, tight)
    )
    more, longer = (
        beyond_random(caps[wide].arm("SEAL"), list(map(caps[wide].arm, controls)), field)
        for field in ("correct", "tokens")
    )
    # A gain has to exceed that of random directions; a loss is one, whatever they do.
    change, fewer = side(seal.difference) * (seal.adjusted <= 0.05), -side(seal.tokens)
    gain = change if change < 0 or side(more) > 0 else 0
    saving = fewer if fewer < 0 or side(longer) < 0 else 0
    before = caps[wide].arm(caps[wide].names[0]).tokens().mean
    parts = [
        (part, what)
        for part, what in (("capped before", "was cut off"), ("finished before", "had ended"))
        if part in short.split
    ]
    chance = [
        said(by_chance(caps[tight], controls, part == "capped before"), 100) for part, _ in parts
    ]
    return Finding(
        about="paper 2, main table; criticism: no random direction, a gain by truncation",
        claim="Adding SEAL's vector raises accuracy and saves tokens.",
        verdict=judged(gain, saving, as_published_excluded(seal.difference, seal.tokens, before)),
        text=f"SEAL changes accuracy by {said(seal.difference, 100)} points and tokens by "
        f"{said(seal.tokens)} a trace, which is {said(more, 100)} points and {said(longer)} tokens "
        f"apart from the mean of {len(controls)} random directions of the same norm "
        f"(published of MATH-500: {100 * GAIN:.0f} points more and {100 * SAVING:.0f} % fewer "
        "tokens). "
        f"Held to {tight} tokens it changes accuracy by "
        f"{said(short.difference, 100)} points: "
        + " and ".join(
            f"{said(short.split[part], 100)} where the baseline {what} ({short.split[part].n})"
            for part, what in parts
        )
        + f" (random directions {' and '.join(chance)}; what was cut off cannot lose).",
    )


def by_chance(found: mi_lens.Evaluation, controls: Sequence[str], cut: bool) -> Estimate:
    """What random directions change on average, where the baseline was cut off or where not."""
    base = found.arm(found.names[0])
    random = np.mean([outcomes(found.arm(one), "correct") for one in controls], 0)
    its = (outcomes(base, "capped") > 0) == cut
    return estimate_mean((random - outcomes(base, "correct"))[its].tolist())


if __name__ == "__main__":
    main(tyro.cli(Config))
