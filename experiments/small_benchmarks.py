"""What 30 problems can show: gains that appear between two runs of one condition, and power.

Greedy runs of one engine repeat, so chance is shown by sampling; that the problems are themselves a
draw is in the intervals.

python -m experiments.small_benchmarks
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import (
    THINKING_WORDS,
    Finding,
    Study,
    Verdict,
    baseline_traces,
    evaluation,
    said,
    save,
)
from mi_lens.common.resampling import resample
from mi_lens.common.statistics import (
    Estimate,
    estimate_mean,
    paired_power,
    problems_needed,
)
from mi_lens.report.plots.style import BLUE, COLOURS, GREY, ORANGE, PAGE, legend_above, style

SAME = "the same again"


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        seeds: Samples of every problem under each condition; at least 2.
        temperature: Of the samples.
        size: Problems of the small benchmark: AIME24 has 30.
        gain: Problems more that are taken for a gain: a fifth of what is right on AIME24.
        words: Thinking tokens: one condition suppresses the first, another a word as frequent
            that is none of them, a third recycles at all.
        layer_fraction: Depth of the block that is recycled.
    """

    limit: int = 100
    seeds: int = 3
    temperature: float = 0.6
    size: int = 30
    gain: int = 2
    words: tuple[str, ...] = THINKING_WORDS
    layer_fraction: float = 0.5


def main(config: Config) -> None:
    """Samples every condition several times, and looks at it through few problems."""
    if config.seeds < 2:
        raise ValueError(f"seeds={config.seeds}: two runs of one condition take at least 2")
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    conditions = tried(model, baseline_traces(config, model, problems), config)
    found = evaluation(config, model, problems, conditions, range(config.seeds))
    print(found.report())
    rights = {name: outcomes(found, name) for name in found.names}
    chances = {
        name if i else SAME: between(rights[name], rights[found.names[0]])
        for i, name in enumerate(found.names)
    }
    gains = {name: net_gains(some.mean(0), config.size) for name, some in chances.items()}
    likely = {
        name: {k: at_least(some, k, config) for k in (config.gain, config.gain + 1)}
        for name, some in chances.items()
    }
    for name, row in likely.items():
        more = ", ".join(f"{k} or more: {said(one, 100)} %" for k, one in row.items())
        print(f"{name}: of {config.size} problems {more}")
    changed = estimate_mean(chances[SAME].sum(1).tolist())
    comparisons = found.comparisons()
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(gains, likely[SAME], changed, config),
        finding(likely[SAME], changed, comparisons, config),
        {"gain of": likely, "net gain": gains, "changed between seeds": changed,
         "comparisons": comparisons, "conditions": found.conditions},
    )  # fmt: skip


def tried(model, baseline: list[mi_lens.Trace], config: Config) -> list[mi_lens.Condition]:
    """The baseline, one word suppressed, one as frequent, and recycling, all sampled."""
    (control,) = mi_lens.matched_controls(
        model.tokenizer, baseline, config.words, draws=1, seed=config.seed
    )
    layer = min(int(config.layer_fraction * model.cfg.n_layers), model.cfg.n_layers - 1)
    acts = {
        "baseline": (),
        f"without {config.words[0]}": (mi_lens.Suppress(config.words[:1]),),
        f"without {control.words[0]}": (mi_lens.Suppress(control.words[:1]),),
        f"recycling block {layer}": (mi_lens.Recycle(layer, config.words),),
    }
    sampling = mi_lens.Sampling(config.temperature)
    return [mi_lens.Condition(some, sampling, name) for name, some in acts.items()]


def outcomes(found: mi_lens.Evaluation, name: str) -> np.ndarray:
    """Whether each problem (row) is right with each seed (column)."""
    by_problem = found.arm(name).by_problem().values()
    return np.array([[float(result.correct) for result in some] for some in by_problem])


def between(right: np.ndarray, base: np.ndarray) -> np.ndarray:
    """For every problem the chances that only the one is right, and only the other.

    Over all pairs of different seeds, so that a condition can be compared with itself.
    """
    seeds = right.shape[1]
    a, b = right.sum(1), base.sum(1)
    together = a * b - (right * base).sum(1)
    alone = [(seeds - 1) * hits - together for hits in (a, b)]
    return np.stack(alone, axis=1) / (seeds * (seeds - 1))


def net_gains(chances: np.ndarray, size: int) -> dict[int, float]:
    """Distribution of problems gained less problems lost, of `size` drawn at random."""
    up, down = chances
    one = np.array([down, 1 - up - down, up])
    whole = reduce(np.convolve, [one] * size)
    return dict(zip(range(-size, size + 1), whole.tolist(), strict=True))


def at_least(chances: np.ndarray, gain: int, config: Config) -> Estimate:
    """Chance of a net gain of so many problems or more, with an interval over problems."""

    def chance(mean: np.ndarray) -> float:
        return sum(p for k, p in net_gains(mean, config.size).items() if k >= gain)

    weights = resample(len(chances), 400, config.seed) / len(chances)
    low, high = np.quantile([chance(mean) for mean in weights @ chances], [0.025, 0.975])
    return Estimate(chance(chances.mean(0)), float(low), float(high), len(chances))


def draw(
    gains: Mapping[str, dict[int, float]], same: Mapping[int, Estimate], changed: Estimate,
    config: Config,
) -> Figure:  # fmt: skip
    """Net gains by chance, their chance by how much two runs differ, and power."""
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.5))
        shown = range(-8, 9)
        left.bar(shown, [gains[SAME].get(k, 0.0) for k in shown], color=GREY, alpha=0.5, label=SAME)
        for (name, some), colour in zip(list(gains.items())[1:], COLOURS, strict=False):
            left.plot(shown, [some.get(k, 0.0) for k in shown], ".-", color=colour, label=name)
        left.set_xlabel(f"problems more right, of {config.size}")
        left.set_ylabel("probability")
        shares = np.linspace(0.005, 0.5, 40)
        for k, colour in zip(same, (ORANGE, BLUE), strict=True):
            chance = [
                sum(p for gain, p in net_gains(np.array([c / 2, c / 2]), config.size).items()
                    if gain >= k)
                for c in shares
            ]  # fmt: skip
            middle.plot(shares, chance, color=colour, label=f"{k} or more")
            one = same[k]
            middle.plot([changed.mean] * 2, [one.low, one.high], color=colour)
            middle.plot(changed.mean, one.mean, "o", color=colour, markersize=3)
        middle.axhline(0.05, color="black", linewidth=0.5, linestyle=":")
        middle.set_ylim(0, 0.45)
        middle.set_xlabel("share that differs between two runs")
        middle.set_ylabel("P(gain by chance)")
        middle.legend()
        numbers = np.unique(np.geomspace(10, 3000, 40).round().astype(int))
        for gain, colour in ((0.05, ORANGE), (0.1, BLUE), (0.2, GREY)):
            share = max(changed.mean or 0.0, gain)
            power = [paired_power(int(n), gain, share) for n in numbers]
            right.semilogx(numbers, power, color=colour, label=f"{100 * gain:.0f} points")
        right.axvline(config.size, color="black", linewidth=0.5, linestyle=":")
        right.set_ylim(0, 1.02)
        right.set_xlabel("problems")
        right.set_ylabel("power (McNemar, .05)")
        right.legend(title="gain", title_fontsize=7, loc="lower right")
        legend_above(figure, left)
    return figure


def finding(
    same: Mapping[int, Estimate], changed: Estimate, comparisons, config: Config
) -> Finding:
    """Whether so small a gain would be rare if there were none."""
    chance, more = same.values()
    verdict: Verdict = "open"
    if chance.low is not None and chance.low > 0.05:
        verdict = "against"
    elif chance.high is not None and chance.high < 0.05:
        verdict = "with"
    largest = max(comparisons, key=lambda one: abs(one.difference.mean or 0.0))
    share = max(changed.mean or 0.0, 0.1)
    power = paired_power(config.size, 0.1, share)
    return Finding(
        about="paper 1, gains on AIME24; criticism: AIME24 has 30 problems, no error bars",
        claim=f"A gain of a fifth on AIME24, {config.gain} or {config.gain + 1} problems, shows "
        "that a method helps.",
        verdict=verdict,
        text=f"Two runs of one condition sampled at temperature {config.temperature} (greedy runs "
        f"repeat) differ in {said(changed, 100)} % of the problems, so that of {config.size} the "
        f"second gains {config.gain} or more in {said(chance, 100)} % and {config.gain + 1} or "
        f"more in {said(more, 100)} % of cases though nothing was changed. {config.size} problems "
        f"find a gain of 10 points with probability {power:.2f}, which takes "
        f"{problems_needed(0.1, share)} for .8; the largest difference here, "
        f"{largest.name!r} with {said(largest.difference, 100)} points on {largest.problems} "
        f"problems, would take {largest.needed or 'no end of them'}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
