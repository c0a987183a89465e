"""SEAL's gain at every budget, from traces that the budget cut off and from those that had ended.

python -m experiments.truncation
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.steering import (
    GAIN,
    RESULTS,
    SteeringStudy,
    gain_excluded,
    held_to,
    random_directions,
    short_table,
    vector_traces,
)
from experiments.study import Finding, Verdict, save, saved_evaluation
from experiments.summaries import outcomes, side, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean, sign_flip
from mi_lens.evaluation.comparison import Arm
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, curve, style


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        draws: Number of random directions.
        budgets: Number of budgets, evenly spaced up to the longest trace of the baseline.
    """

    draws: int = 5
    budgets: int = 40


@dataclass(frozen=True)
class Gain:
    """The gain of accuracy by steering at one budget, and its two parts.

    A trace that was cut off has nothing to lose, so any disturbance gains there and loses
    elsewhere. Only a comparison with random directions makes the parts meaningful.

    Attributes:
        budget: The budget in tokens.
        baseline: Accuracy without steering.
        steered: Accuracy with steering.
        random: Mean accuracy with random directions.
        gain: Steered less baseline.
        cut: Part of the gain from problems whose baseline was cut off.
        ended: Part of the gain from the other problems.
        random_cut: The part `cut` of the gain by random directions.
        random_ended: The part `ended` of the gain by random directions.
        more_cut: `cut` less `random_cut`, paired by problem.
        more_ended: `ended` less `random_ended`.
        cut_problems: Share of problems whose baseline was cut off.
        p_gain: p-value of `gain`, by random signs.
        p_more_ended: p-value of `more_ended`, by random signs.
    """

    budget: int
    baseline: Estimate
    steered: Estimate
    random: Estimate
    gain: Estimate
    cut: Estimate
    ended: Estimate
    random_cut: Estimate
    random_ended: Estimate
    more_cut: Estimate
    more_ended: Estimate
    cut_problems: float
    p_gain: float
    p_more_ended: float


def main(config: Config) -> None:
    """Cuts the same traces at every budget, and splits SEAL's gain in two parts."""
    model = mi_lens.load(config.model)
    hook_name = config.hook_name(model)
    problems = config.load_problems()
    traces = vector_traces(config, model, problems)
    vector = mi_lens.extract_steering_vectors(model, traces, [hook_name])[hook_name]
    controls = random_directions(vector, config.draws, config.seed)
    seal = mi_lens.Condition((mi_lens.Steer(vector),), name="SEAL")
    evaluation = saved_evaluation(
        config, model, problems, [mi_lens.Condition(), seal, *controls], folder=RESULTS
    )
    print(short_table(evaluation))
    baseline = evaluation.arm(evaluation.names[0])
    arms = (
        baseline,
        evaluation.arm("SEAL"),
        [evaluation.arm(control.name) for control in controls],
    )
    tokens = [result.length for result in baseline.results]
    budgets = np.unique(np.linspace(0, max(tokens), config.budgets + 1).round().astype(int)[1:])
    gains = [gain_at(int(budget), *arms) for budget in budgets]
    middle = gain_at(int(np.median(tokens)), *arms)
    whole = gain_at(config.max_new_tokens, *arms)
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(gains, middle.budget),
        finding(gains, middle, whole),
        {
            "gains": gains,
            "median": middle,
            "whole": whole,
            "tokens": tokens,
            "comparisons": evaluation.comparisons(),
        },
    )


def gain_at(budget: int, baseline: Arm, seal: Arm, controls: Sequence[Arm]) -> Gain:
    """The gain at a budget and its parts, as shares of all problems."""
    before, after = (outcomes(held_to(arm, budget), "correct") for arm in (baseline, seal))
    random = np.mean([outcomes(held_to(arm, budget), "correct") for arm in controls], 0)
    cut = np.array(
        [
            any(result.length > budget or result.capped for result in results)
            for results in baseline.by_problem().values()
        ]
    )
    values = {
        "baseline": before,
        "steered": after,
        "random": random,
        "gain": after - before,
        "cut": (after - before) * cut,
        "ended": (after - before) * ~cut,
        "random_cut": (random - before) * cut,
        "random_ended": (random - before) * ~cut,
        "more_cut": (after - random) * cut,
        "more_ended": (after - random) * ~cut,
    }
    return Gain(
        budget,
        **{name: estimate_mean(by_problem.tolist()) for name, by_problem in values.items()},
        cut_problems=float(cut.mean()),
        p_gain=sign_flip(values["gain"].tolist()),
        p_more_ended=sign_flip(values["more_ended"].tolist()),
    )


def draw(gains: Sequence[Gain], median: int) -> Figure:
    """Accuracy at each budget, and the gain with its two parts."""
    budgets = [float(gain.budget) for gain in gains]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.9))
        for field, colour, label in (
            ("baseline", BLUE, "no steering"),
            ("random", GREY, "random directions"),
            ("steered", ORANGE, "SEAL"),
        ):
            estimates = [getattr(gain, field) for gain in gains]
            curve(left, budgets, estimates, colour, label, scale=100.0)
        for field, colour, label in (
            ("gain", GREY, "whole gain of SEAL"),
            ("cut", ORANGE, "where the baseline was cut off"),
            ("ended", GREEN, "where it had ended"),
        ):
            estimates = [getattr(gain, field) for gain in gains]
            curve(right, budgets, estimates, colour, label, scale=100.0)
        for field, colour in (("random_cut", ORANGE), ("random_ended", GREEN)):
            means = [100 * (getattr(gain, field).mean or 0) for gain in gains]
            right.plot(budgets, means, color=colour, linestyle="--")
        right.plot([], [], color="black", linestyle="--", label="the same by random directions")
        right.axhline(0, color="black", linewidth=0.5)
        for axes, label in ((left, "median length of the baseline"), (right, None)):
            axes.axvline(median, color="black", linewidth=0.7, linestyle=":", label=label)
            axes.set_xlabel("budget (tokens)")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
        left.set_ylabel("accuracy within the budget (%)")
        right.set_ylabel("accuracy less baseline (points)")
    return figure


def finding(gains: Sequence[Gain], middle: Gain, whole: Gain) -> Finding:
    """The two parts at the baseline's median length, less those by random directions."""
    gained = side(middle.gain) if middle.p_gain <= 0.05 else 0
    improved = side(middle.more_ended) if middle.p_more_ended <= 0.05 else 0
    verdict: Verdict = "open"
    if gained > 0:
        verdict = "with" if improved > 0 else "in part"
    elif gained < 0 or improved < 0 or gain_excluded(middle.gain):
        verdict = "against"
    best = max(gains, key=lambda gain: gain.gain.mean or 0)
    return Finding(
        about="paper 2, main table; criticism: SEAL's gain is recovered truncation",
        claim="SEAL answers more rightly, not only sooner.",
        verdict=verdict,
        text=f"At {middle.budget} tokens, which cut off {100 * middle.cut_problems:.0f} % of the "
        f"baseline's traces, SEAL's {with_interval(middle.gain, 100)} points (published on "
        f"MATH-500: {100 * GAIN:.0f}) are {with_interval(middle.cut, 100)} from those "
        f"({with_interval(middle.more_cut, 100)} more than by random directions) and "
        f"{with_interval(middle.ended, 100)} from the ones that had ended "
        f"({with_interval(middle.more_ended, 100)} more). The largest of {len(gains)} budgets' "
        f"gains, chosen after the fact, is {with_interval(best.gain, 100)} points at {best.budget} "
        f"tokens, and with {whole.budget} tokens ({100 * whole.cut_problems:.0f} % cut off) it is "
        f"{with_interval(whole.gain, 100)}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
