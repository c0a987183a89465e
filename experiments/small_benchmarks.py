"""What 30 problems can show: gains by chance between runs of one condition, and power.

Greedy runs of one engine repeat exactly, so the study samples to show chance. Its intervals are
over problems, as these are a random draw too.

python -m experiments.small_benchmarks
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.study import THINKING_WORDS, Study, baseline_traces, save, saved_evaluation
from experiments.summaries import affine, with_interval
from mi_lens.common.intervals import estimate_share
from mi_lens.common.resampling import resample
from mi_lens.common.statistics import (
    Estimate,
    paired_power,
    problems_needed,
)
from mi_lens.report.plots.style import BLUE, COLOURS, GREY, ORANGE, PAGE, legend_above, style

SAME = "the same again"


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        seeds: Number of samples of every problem under each condition; at least 2.
        temperature: Temperature of the samples.
        size: Number of problems in the small benchmark; AIME24 has 30.
        gain: Number of further right problems that counts as a gain; the default is about a fifth
            of the right answers on AIME24.
        words: Thinking tokens. One condition suppresses the first, another an ordinary word as
            frequent; a third recycles a block at all thinking tokens.
        layer_fraction: Depth of the recycled block, as a fraction of the model.
    """

    limit: int = 100
    seeds: int = 3
    temperature: float = 0.6
    size: int = 30
    gain: int = 2
    words: tuple[str, ...] = THINKING_WORDS
    layer_fraction: float = 0.5


def main(config: Config) -> None:
    """Samples every condition several times, and computes the gains that few problems show."""
    if config.seeds < 2:
        raise ValueError(f"seeds={config.seeds}: two runs of one condition take at least 2")
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    conditions = sampled_conditions(model, baseline_traces(config, model, problems), config)
    evaluation = saved_evaluation(config, model, problems, conditions, range(config.seeds))
    print(evaluation.report())
    rights = {name: right_by_seed(evaluation, name) for name in evaluation.names}
    chances = {
        name if i else SAME: discordance(rights[name], rights[evaluation.names[0]])
        for i, name in enumerate(evaluation.names)
    }
    gains = {
        name: net_gains(by_problem.mean(0), config.size) for name, by_problem in chances.items()
    }
    likely = {
        name: {gain: at_least(by_problem, gain, config) for gain in (config.gain, config.gain + 1)}
        for name, by_problem in chances.items()
    }
    for name, row in likely.items():
        cells = [f"{gain} or more: {with_interval(chance, 100)} %" for gain, chance in row.items()]
        print(f"{name}: of {config.size} problems {', '.join(cells)}")
    # Of several seeds only every second pair is independent of the others.
    changed = estimate_share(chances[SAME].sum(1).tolist(), trials=config.seeds // 2)
    comparisons = evaluation.comparisons()
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(gains, likely[SAME], changed, config),
        finding(likely[SAME], changed, comparisons, config),
        {
            "gain of": likely,
            "net gain": gains,
            "changed between seeds": changed,
            "comparisons": comparisons,
            "conditions": evaluation.conditions,
        },
    )


def sampled_conditions(
    model, baseline: list[mi_lens.Trace], config: Config
) -> list[mi_lens.Condition]:
    """The baseline, a thinking token suppressed, a control word suppressed, and recycling."""
    (control,) = mi_lens.matched_controls(
        model.tokenizer, baseline, config.words, draws=1, seed=config.seed
    )
    layer = min(int(config.layer_fraction * model.cfg.n_layers), model.cfg.n_layers - 1)
    interventions = {
        "baseline": (),
        f"without {config.words[0]}": (mi_lens.Suppress(config.words[:1]),),
        f"without {control.words[0]}": (mi_lens.Suppress(control.words[:1]),),
        f"recycling block {layer}": (mi_lens.Recycle(layer, config.words),),
    }
    sampling = mi_lens.Sampling(config.temperature)
    return [mi_lens.Condition(applied, sampling, name) for name, applied in interventions.items()]


def right_by_seed(evaluation: mi_lens.Evaluation, name: str) -> np.ndarray:
    """1 where a problem (row) is right with a seed (column), 0 where not."""
    by_problem = evaluation.arm(name).by_problem().values()
    return np.array([[float(result.correct) for result in results] for results in by_problem])


def discordance(right: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """For every problem the chance that only the first is right, and that only the second is.

    The chances are over all pairs of different seeds, so a condition can be compared with itself.
    """
    seeds = right.shape[1]
    hits, baseline_hits = right.sum(1), baseline.sum(1)
    together = hits * baseline_hits - (right * baseline).sum(1)
    alone = [(seeds - 1) * count - together for count in (hits, baseline_hits)]
    return np.stack(alone, axis=1) / (seeds * (seeds - 1))


def net_gains(chances: np.ndarray, size: int) -> dict[int, float]:
    """Distribution of the problems gained less those lost, among `size` random problems."""
    up, down = chances
    single = np.array([down, 1 - up - down, up])
    whole = reduce(np.convolve, [single] * size)
    return dict(zip(range(-size, size + 1), whole.tolist(), strict=True))


def chance_of_gain(chances: np.ndarray, gain: int, size: int) -> float:
    """Chance of a net gain of `gain` problems or more, among `size` random problems."""
    distribution = net_gains(chances, size)
    return sum(probability for net, probability in distribution.items() if net >= gain)


def at_least(chances: np.ndarray, gain: int, config: Config) -> Estimate:
    """Chance of a net gain of `gain` problems or more, with an interval over problems."""

    def chance(mean: np.ndarray) -> float:
        return chance_of_gain(mean, gain, config.size)

    weights = resample(len(chances), 400, config.seed) / len(chances)
    low, high = np.quantile([chance(mean) for mean in weights @ chances], [0.025, 0.975])
    return Estimate(chance(chances.mean(0)), float(low), float(high), len(chances))


def draw(
    gains: Mapping[str, dict[int, float]],
    same: Mapping[int, Estimate],
    changed: Estimate,
    config: Config,
) -> Figure:
    """Net gains, the chance of a gain by the share that differs between runs, and power."""
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.5))
        net_range = range(-8, 9)
        by_chance = [gains[SAME].get(gain, 0.0) for gain in net_range]
        left.bar(net_range, by_chance, color=GREY, alpha=0.5, label=SAME)
        for (name, by_gain), colour in zip(list(gains.items())[1:], COLOURS, strict=False):
            heights = [by_gain.get(gain, 0.0) for gain in net_range]
            left.plot(net_range, heights, ".-", color=colour, label=name)
        left.set_xlabel(f"problems more right, of {config.size}")
        left.set_ylabel("probability")
        draw_chances(middle, same, changed, config)
        draw_power(right, changed, config)
        legend_above(figure, left)
    return figure


def draw_chances(
    axes: Any, same: Mapping[int, Estimate], changed: Estimate, config: Config
) -> None:
    """The chance of a gain by the share of problems that differs between two runs."""
    shares = np.linspace(0.005, 0.5, 40)
    for gain, colour in zip(same, (ORANGE, BLUE), strict=True):
        chances = [
            chance_of_gain(np.array([share / 2, share / 2]), gain, config.size) for share in shares
        ]
        axes.plot(shares, chances, color=colour, label=f"{gain} or more")
        estimate = same[gain]
        axes.plot([changed.mean] * 2, [estimate.low, estimate.high], color=colour)
        axes.plot(changed.mean, estimate.mean, "o", color=colour, markersize=3)
    axes.axhline(0.05, color="black", linewidth=0.5, linestyle=":")
    axes.set_ylim(0, 0.45)
    axes.set_xlabel("share that differs between two runs")
    axes.set_ylabel("P(gain by chance)")
    axes.legend()


def draw_power(axes: Axes, changed: Estimate, config: Config) -> None:
    """The power of an exact test by the number of problems, for three gains."""
    numbers = np.unique(np.geomspace(10, 3000, 40).round().astype(int))
    for gain, colour in ((0.05, ORANGE), (0.1, BLUE), (0.2, GREY)):
        share = max(changed.mean or 0.0, gain)
        power = [paired_power(int(number), gain, share) for number in numbers]
        axes.semilogx(numbers, power, color=colour, label=f"{100 * gain:.0f} points")
    axes.axvline(config.size, color="black", linewidth=0.5, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("problems")
    axes.set_ylabel("power (McNemar, .05)")
    axes.legend(title="gain", title_fontsize=7, loc="lower right")


def finding(
    same: Mapping[int, Estimate], changed: Estimate, comparisons, config: Config
) -> Finding:
    """Whether so small a gain is rare where nothing was changed."""
    chance, more = same.values()
    largest = max(comparisons, key=lambda comparison: abs(comparison.difference.mean or 0.0))
    share = max(changed.mean or 0.0, 0.1)
    power = paired_power(config.size, 0.1, share)
    return Finding(
        about="paper 1, gains on AIME24; criticism: AIME24 has 30 problems, no error bars",
        claim=f"A gain of a fifth on AIME24, {config.gain} or {config.gain + 1} problems, shows "
        "that a method helps.",
        tests=(
            ClaimTest(
                f"5 % less the chance that a run gains {config.gain} or more on an equal run",
                affine(chance, -100, 5),
                0.0,
                "points",
            ),
        ),
        text=f"Two runs of one condition sampled at temperature {config.temperature} (greedy runs "
        f"repeat) differ in {with_interval(changed, 100)} % of the problems, so that of "
        f"{config.size} the second gains {config.gain} or more in {with_interval(chance, 100)} % "
        f"and {config.gain + 1} or more in {with_interval(more, 100)} % of cases though nothing "
        f"was changed. {config.size} problems find a gain of 10 points with probability "
        f"{power:.2f}, which takes {problems_needed(0.1, share)} for .8; the largest difference "
        f"here, {largest.name!r} with {with_interval(largest.difference, 100)} points on "
        f"{largest.problems} problems, would take {largest.needed or 'no end of them'}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
