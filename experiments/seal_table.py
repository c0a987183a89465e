"""SEAL's table with the controls it lacks: random directions, a tight budget, cut-off traces.

python -m experiments.seal_table
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mi_lens
from experiments.steering import (
    GAIN,
    RESULTS,
    SAVING,
    SteeringStudy,
    as_published_excluded,
    beyond_random,
    block_inputs,
    held_to,
    random_directions,
    short_table,
    steering_verdict,
    vector_traces,
)
from experiments.study import Finding, save, saved_evaluation
from experiments.summaries import outcomes, side, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, dots, style

NOTHING = Estimate(None, None, None, 0)


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        draws: Number of random directions.
        words: Words that the logit penalty of SEAL's baseline hits, in every token that contains
            them.
        tight: A second budget, at which the same traces are cut off; None means the median length
            of the baseline's traces.
    """

    draws: int = 5
    words: tuple[str, ...] = ("wait", "alternatively")
    tight: int | None = None


def main(config: Config) -> None:
    """Evaluates SEAL, its variants and its controls on the same problems, at two budgets."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    hook_name = config.hook_name(model)
    vectors = mi_lens.extract_steering_vectors(
        model, vector_traces(config, model, problems), block_inputs(model)
    )
    vector = vectors[hook_name]
    print(vector)
    controls = random_directions(vector, config.draws, config.seed)
    conditions = [mi_lens.Condition(), *steering_conditions(vector, vectors, config), *controls]
    evaluation = saved_evaluation(config, model, problems, conditions, folder=RESULTS)
    caps = evaluations_by_cap(evaluation, config)
    for cap, at_cap in caps.items():
        print(f"\nAt most {cap} tokens\n{short_table(at_cap)}")
    comparisons = {cap: at_cap.comparisons() for cap, at_cap in caps.items()}
    names = [control.name for control in controls]
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(comparisons, names),
        finding(caps, comparisons, names),
        {
            "hook": hook_name,
            "norm": vector.norm,
            "reliability": vector.reliability,
            "thoughts": vector.counts,
            "vector problems": len(vector.problems),
            "comparisons": comparisons,
            "accuracy": {
                cap: {name: at_cap.arm(name).accuracy() for name in at_cap.names}
                for cap, at_cap in caps.items()
            },
            "tokens": {
                cap: {name: at_cap.arm(name).tokens() for name in at_cap.names}
                for cap, at_cap in caps.items()
            },
        },
    )


def steering_conditions(
    vector: mi_lens.SteeringVector, vectors: Mapping[str, mi_lens.SteeringVector], config: Config
) -> list[mi_lens.Condition]:
    """SEAL, its variants, and the logit penalty of its baseline."""
    all_layers = tuple(map(mi_lens.Steer, vectors.values()))
    penalty = mi_lens.LogitPenalty(config.words, containing=True)
    return [
        mi_lens.Condition((mi_lens.Steer(vector),), name="SEAL"),
        mi_lens.Condition(all_layers, name="SEAL, all layers"),
        mi_lens.Condition((mi_lens.Steer(vector, variant="project"),), name="projected out"),
        mi_lens.Condition((penalty,), name="logit penalty"),
    ]


def evaluations_by_cap(
    evaluation: mi_lens.Evaluation, config: Config
) -> dict[int, mi_lens.Evaluation]:
    """The evaluation at the whole budget and at the tight one."""
    baseline = evaluation.arm(evaluation.names[0])
    tight = config.tight or int(np.median([result.length for result in baseline.results]))
    if tight >= config.max_new_tokens:
        raise ValueError(
            f"a tight budget of {tight} tokens, where traces have at most {config.max_new_tokens}: "
            "expected a smaller one; raise --max-new-tokens"
        )
    arms = [held_to(evaluation.arm(name), tight) for name in evaluation.names]
    results = tuple(result for arm in arms for result in arm.results)
    at_tight = mi_lens.Evaluation(results, {**evaluation.setting, "max_new_tokens": tight})
    return {config.max_new_tokens: evaluation, tight: at_tight}


def draw(
    comparisons: Mapping[int, Sequence[mi_lens.Comparison]], controls: Sequence[str]
) -> Figure:
    """Accuracy and tokens at both budgets; tight accuracy by whether the baseline had ended."""
    tight = min(comparisons)
    names = [comparison.name for comparison in comparisons[tight]]
    with style():
        figure, panels = plt.subplots(
            1, 3, figsize=(PAGE, 0.9 + 0.2 * len(names)), sharey=True, width_ratios=(3, 2, 3)
        )
        grey = [name in controls for name in names]
        for axes, field, scale in ((panels[0], "difference", 100.0), (panels[1], "tokens", 1.0)):
            for cap, at_cap in comparisons.items():
                estimates = [getattr(comparison, field) for comparison in at_cap]
                _series(axes, estimates, grey, cap == tight, scale, f"at most {cap} tokens")
        for part in ("finished", "capped"):
            estimates = [
                comparison.split.get(f"{part} before", NOTHING) for comparison in comparisons[tight]
            ]
            label = f"baseline {part} ({estimates[0].n})"
            _series(panels[2], estimates, grey, part == "capped", 100.0, label)
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


def _series(
    axes: Axes,
    estimates: Sequence[Estimate],
    grey: Sequence[bool],
    second: bool,
    scale: float,
    label: str,
) -> None:
    """Draws one of two series: dots above or diamonds below; controls are grey in both."""
    colour, shift, marker = (ORANGE, 0.14, "D") if second else (BLUE, -0.14, "o")
    colours = [GREY if control else colour for control in grey]
    dots(axes, estimates, colours, scale=scale, shift=shift, markers=marker, label=label)


def finding(
    caps: Mapping[int, mi_lens.Evaluation],
    comparisons: Mapping[int, Sequence[mi_lens.Comparison]],
    controls: Sequence[str],
) -> Finding:
    """SEAL compared with no steering and with random directions, at both budgets."""
    wide, tight = max(caps), min(caps)
    seal, short = (
        next(comparison for comparison in comparisons[cap] if comparison.name == "SEAL")
        for cap in (wide, tight)
    )
    more, longer = (
        beyond_random(caps[wide].arm("SEAL"), list(map(caps[wide].arm, controls)), field)
        for field in ("correct", "tokens")
    )
    # A gain must exceed that of random directions. A loss counts whatever they do.
    change, fewer = side(seal.difference) * (seal.adjusted <= 0.05), -side(seal.tokens)
    gain = change if change < 0 or side(more) > 0 else 0
    saving = fewer if fewer < 0 or side(longer) < 0 else 0
    before = caps[wide].arm(caps[wide].names[0]).tokens().mean
    parts = [
        (part, state)
        for part, state in (("capped before", "was cut off"), ("finished before", "had ended"))
        if part in short.split
    ]
    chance = [
        with_interval(by_chance(caps[tight], controls, part == "capped before"), 100)
        for part, _ in parts
    ]
    return Finding(
        about="paper 2, main table; criticism: no random direction, a gain by truncation",
        claim="Adding SEAL's vector raises accuracy and saves tokens.",
        verdict=steering_verdict(
            gain, saving, as_published_excluded(seal.difference, seal.tokens, before)
        ),
        text=f"SEAL changes accuracy by {with_interval(seal.difference, 100)} points and tokens by "
        f"{with_interval(seal.tokens)} a trace, which is {with_interval(more, 100)} points and "
        f"{with_interval(longer)} tokens apart from the mean of {len(controls)} random directions "
        f"of the same norm (published of MATH-500: {100 * GAIN:.0f} points more and "
        f"{100 * SAVING:.0f} % fewer tokens). Held to {tight} tokens it changes accuracy by "
        f"{with_interval(short.difference, 100)} points: "
        + " and ".join(
            f"{with_interval(short.split[part], 100)} where the baseline {state} "
            f"({short.split[part].n})"
            for part, state in parts
        )
        + f" (random directions {' and '.join(chance)}; what was cut off cannot lose).",
    )


def by_chance(evaluation: mi_lens.Evaluation, controls: Sequence[str], cut: bool) -> Estimate:
    """Mean change by random directions, where the baseline was cut off or where it had ended."""
    baseline = evaluation.arm(evaluation.names[0])
    random = np.mean([outcomes(evaluation.arm(name), "correct") for name in controls], 0)
    inside = (outcomes(baseline, "capped") > 0) == cut
    return estimate_mean((random - outcomes(baseline, "correct"))[inside].tolist())


if __name__ == "__main__":
    main(tyro.cli(Config))
