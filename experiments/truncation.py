"""SEAL's gain at every budget: what truncation recovers, and what it does to what had ended.

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
    KEPT,
    SteeringStudy,
    gain_excluded,
    held_to,
    random_directions,
    short_table,
    vector_traces,
)
from experiments.study import Finding, Verdict, evaluation, outcomes, said, save, side
from mi_lens.common.statistics import Estimate, estimate_mean, sign_flip
from mi_lens.evaluation.comparison import Arm
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, curve, style


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        draws: Random directions.
        budgets: At how many budgets, evenly spaced up to the longest trace of the baseline.
    """

    draws: int = 5
    budgets: int = 40


@dataclass(frozen=True)
class Gain:
    """What steering adds to accuracy at one budget; the two parts sum to the whole.

    A trace that was cut off has nothing to lose, so any disturbance gains there and loses
    elsewhere: the parts say something only beside those of random directions.

    Attributes:
        budget: In tokens.
        baseline: Accuracy without steering.
        steered: With it.
        random: With random directions, their mean.
        gain: Steered less baseline.
        cut: The part of the gain from problems whose baseline was cut off.
        ended: The part from the others.
        random_cut: As `cut`, by random directions.
        random_ended: As `ended`.
        more_cut: `cut` less `random_cut`, paired by problem.
        more_ended: `ended` less `random_ended`.
        cut_problems: Share of problems whose baseline was cut off.
        p_gain: Of `gain`, by signs drawn anew.
        p_more_ended: Of `more_ended`.
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
    """Holds the same traces to every budget."""
    model = mi_lens.load(config.model)
    hook_name = config.hook_name(model)
    problems = config.load_problems()
    made_from = vector_traces(config, model, problems)
    vector = mi_lens.extract_steering_vectors(model, made_from, [hook_name])
    controls = random_directions(vector[hook_name], config.draws, config.seed)
    seal = mi_lens.Condition((mi_lens.Steer(vector[hook_name]),), name="SEAL")
    found = evaluation(config, model, problems, [mi_lens.Condition(), seal, *controls], kept=KEPT)
    print(short_table(found))
    base = found.arm(found.names[0])
    random = [found.arm(one.name) for one in controls]
    tokens = [one.tokens for one in base.results]
    budgets = np.unique(np.linspace(0, max(tokens), config.budgets + 1).round().astype(int)[1:])
    gains = [gain_at(int(budget), base, found.arm("SEAL"), random) for budget in budgets]
    middle = gain_at(int(np.median(tokens)), base, found.arm("SEAL"), random)
    whole = gain_at(config.max_new_tokens, base, found.arm("SEAL"), random)
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(gains, middle.budget),
        finding(gains, middle, whole),
        {"gains": gains, "median": middle, "whole": whole, "tokens": tokens,
         "comparisons": found.comparisons()},
    )  # fmt: skip


def gain_at(budget: int, base: Arm, seal: Arm, controls: Sequence[Arm]) -> Gain:
    """The gain at a budget and its parts, in share of all problems."""
    before, after = (outcomes(held_to(arm, budget), "correct") for arm in (base, seal))
    random = np.mean([outcomes(held_to(arm, budget), "correct") for arm in controls], 0)
    cut = np.array(
        [
            any(one.tokens > budget or one.capped for one in some)
            for some in base.by_problem().values()
        ]
    )
    values = {
        "baseline": before, "steered": after, "random": random, "gain": after - before,
        "cut": (after - before) * cut, "ended": (after - before) * ~cut,
        "random_cut": (random - before) * cut, "random_ended": (random - before) * ~cut,
        "more_cut": (after - random) * cut, "more_ended": (after - random) * ~cut,
    }  # fmt: skip
    return Gain(
        budget,
        **{name: estimate_mean(some.tolist()) for name, some in values.items()},
        cut_problems=float(cut.mean()),
        p_gain=sign_flip(values["gain"].tolist()),
        p_more_ended=sign_flip(values["more_ended"].tolist()),
    )


def draw(gains: Sequence[Gain], median: int) -> Figure:
    """Accuracy within each budget, and the gain with its two parts."""
    budgets = [float(one.budget) for one in gains]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.9))
        for field, colour, label in (
            ("baseline", BLUE, "no steering"),
            ("random", GREY, "random directions"),
            ("steered", ORANGE, "SEAL"),
        ):
            curve(left, budgets, [getattr(one, field) for one in gains], colour, label, scale=100.0)
        for field, colour, label in (
            ("gain", GREY, "whole gain of SEAL"),
            ("cut", ORANGE, "where the baseline was cut off"),
            ("ended", GREEN, "where it had ended"),
        ):
            curve(
                right, budgets, [getattr(one, field) for one in gains], colour, label, scale=100.0
            )
        for field, colour in (("random_cut", ORANGE), ("random_ended", GREEN)):
            means = [100 * (getattr(one, field).mean or 0) for one in gains]
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
    """The parts at the baseline's median length, beyond those of random directions."""
    gained = side(middle.gain) if middle.p_gain <= 0.05 else 0
    improved = side(middle.more_ended) if middle.p_more_ended <= 0.05 else 0
    verdict: Verdict = "open"
    if gained > 0:
        verdict = "with" if improved > 0 else "in part"
    elif gained < 0 or improved < 0 or gain_excluded(middle.gain):
        verdict = "against"
    best = max(gains, key=lambda one: one.gain.mean or 0)
    return Finding(
        about="paper 2, main table; criticism: SEAL's gain is recovered truncation",
        claim="SEAL answers more rightly, not only sooner.",
        verdict=verdict,
        text=f"At {middle.budget} tokens, which cut off {100 * middle.cut_problems:.0f} % of the "
        f"baseline's traces, SEAL's {said(middle.gain, 100)} points (published on MATH-500: "
        f"{100 * GAIN:.0f}) are {said(middle.cut, 100)} "
        f"from those ({said(middle.more_cut, 100)} more than by random directions) and "
        f"{said(middle.ended, 100)} from the ones that had ended "
        f"({said(middle.more_ended, 100)} more). "
        f"The largest of {len(gains)} budgets' gains, chosen after the fact, is "
        f"{said(best.gain, 100)} points at {best.budget} tokens, and with {whole.budget} tokens "
        f"({100 * whole.cut_problems:.0f} % cut off) it is {said(whole.gain, 100)}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
