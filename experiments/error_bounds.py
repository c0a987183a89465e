"""Bounds on the error of guessing the answer's last digit along a trace (theorems 1 and 2).

python -m experiments.error_bounds
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.mi_study import fingerprint_of, saved_analysis, states_of
from experiments.study import Study, save
from experiments.summaries import affine, with_interval
from mi_lens.common.intervals import estimate_share, estimate_unpaired_difference
from mi_lens.common.statistics import Estimate
from mi_lens.information.across_problems.error_bounds import entropy_bits
from mi_lens.information.across_problems.probe import UsableInformation
from mi_lens.problems.answers import boxed_answer
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, curve, legend_above, style

FRACTIONS = tuple(i / 10 for i in range(11))
DIGITS = 10
TITLES = {"step": "from one step", "accumulated": "from all steps so far"}


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run. All answers must be integers.

    Attributes:
        hook_name: Hook name of the states to read; None is the last block's hook_resid_post.
    """

    limit: int = 500
    hook_name: str | None = None


@dataclass(frozen=True)
class Bounds:
    """Bounds and errors at every fraction of the trace, for one way to read states.

    Attributes:
        bits: Usable information; for accumulated steps it never falls.
        interval: Interval of the usable information, over problems.
        lower: Theorem 1: smallest error of any guess, if states hold no more than `bits`.
        upper: Theorem 2: largest error of the best guess, if states hold at least `bits`.
        probe: Error of the probe on problems that it was not fitted to.
    """

    bits: list[float]
    interval: list[tuple[float, float]]
    lower: list[float]
    upper: list[float]
    probe: list[Estimate]


def main(config: Config) -> None:
    """Reads the digit at tenths of the trace and draws the bounds on the error."""
    names = None if config.hook_name is None else (config.hook_name,)
    # The study information_across_problems asks for the same analysis, and so shares it.
    analysis = saved_analysis(config, hook_names=names, mismatched=0)
    (hook,) = analysis.hook_names
    answers = [trace.problem.answer for trace in analysis.analysed if trace.problem is not None]
    digits = mi_lens.answer_parts(answers, "last_digit")
    # The pocket task draws digits uniformly; for other tasks only the frequencies are known.
    entropy = float(np.log2(DIGITS)) if config.problems == "pocket" else entropy_bits(digits)
    states = states_of(analysis, hook)
    steps = [
        mi_lens.at_fraction(analysis.analysed, fraction).states(states) for fraction in FRACTIONS
    ]
    alone = [
        mi_lens.usable_information(step, digits, shuffles=0, seed=config.seed) for step in steps
    ]
    together = mi_lens.accumulated_information(steps, digits, shuffles=0, seed=config.seed)
    bounds = {
        "step": bound(alone, [estimate.bits for estimate in alone], entropy),
        "accumulated": bound(together.estimates, together.running_maximum.tolist(), entropy),
    }
    written = [(boxed_answer(trace.text) or "?").strip()[-1:] for trace in analysis.analysed]
    wrong = [float(last != str(digit)) for last, digit in zip(written, digits, strict=True)]
    model_error = estimate_share(wrong)
    print(table(bounds))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(bounds, model_error),
        finding(bounds["step"], model_error),
        {"fractions": FRACTIONS, "entropy": entropy, "model error": model_error, **bounds},
    )


def bound(estimates: Sequence[UsableInformation], bits: list[float], entropy: float) -> Bounds:
    """The bounds of both theorems, given the bits that states hold."""
    theorems = mi_lens.error_bounds(entropy, bits, DIGITS)
    return Bounds(
        bits,
        [estimate.interval for estimate in estimates],
        theorems.lower.tolist(),
        theorems.upper.tolist(),
        [estimate_share([1.0 - right for right in estimate.correct]) for estimate in estimates],
    )


def table(bounds: Mapping[str, Bounds]) -> str:
    """Bounds and errors as a text table."""
    lines = [f"{'fraction':<10}" + "".join(f"{TITLES[name]:>48}" for name in bounds)]
    for i, fraction in enumerate(FRACTIONS):
        cells = (
            f"{bound.bits[i]:.2f} bits, {bound.lower[i]:.2f} to {bound.upper[i]:.2f}: "
            f"{with_interval(bound.probe[i], 1, 2)}"
            for bound in bounds.values()
        )
        lines.append(f"{fraction:<10g}" + "".join(f"{cell:>48}" for cell in cells))
    return "\n".join(lines)


def draw(bounds: Mapping[str, Bounds], model_error: Estimate) -> Figure:
    """The bounds along the trace, beside the errors of the probe and of the model's answer."""
    with style():
        figure, panels = plt.subplots(1, len(bounds), figsize=(PAGE, 2.4), sharey=True)
        for axes, (name, bound) in zip(panels, bounds.items(), strict=True):
            hatching = {"facecolor": "none", "edgecolor": GREY, "hatch": "////", "linewidth": 0.5}
            label = "between theorems 1 and 2"
            axes.fill_between(FRACTIONS, bound.lower, bound.upper, label=label, **hatching)
            curve(axes, FRACTIONS, bound.probe, BLUE, "probe (95 %)", marker="o")
            whole = [model_error] * len(FRACTIONS)
            curve(axes, FRACTIONS, whole, ORANGE, "model's own answer (95 %)")
            axes.set_title(TITLES[name])
            axes.set_xlabel("fraction of the trace")
            axes.set_ylim(-0.03, 1)
        panels[0].set_ylabel("error of the last digit")
        legend_above(figure, panels[0])
    return figure


def finding(bounds: Bounds, model_error: Estimate) -> Finding:
    """Whether the probe's error falls and stays within both bounds, up to its own uncertainty.

    Bounds and error come from one probe, so neither agreement nor disagreement tells of the
    theorems.
    """
    inside = [
        (error.high if error.high is not None else 1.0) >= low and (error.low or 0.0) <= high
        for error, (bits, _), low, high in zip(
            bounds.probe, bounds.interval, bounds.lower, bounds.upper, strict=True
        )
        if bits > 0
    ]
    first, last = bounds.probe[0], bounds.probe[-1]
    return Finding(
        about="paper 1, theorems 1 and 2",
        claim="The more information states hold on the answer, the lower both bounds on error.",
        premises=(
            Premise(
                "The claim could not fail: bits and error are of one probe on the same states, so "
                "that more bits come with fewer errors, whatever the states hold.",
                "by construction",
            ),
        ),
        tests=(
            ClaimTest(
                "error at the first step less that at the last",
                affine(estimate_unpaired_difference(first, last), 100),
                5.0,
                "points",
            ),
        ),
        text="From the first step to the last the error of a guess of the last digit goes from "
        f"{with_interval(bounds.probe[0], 1, 2)} to {with_interval(bounds.probe[-1], 1, 2)} and "
        f"the bounds from {bounds.lower[0]:.2f} and {bounds.upper[0]:.2f} to "
        f"{bounds.lower[-1]:.2f} and {bounds.upper[-1]:.2f}; it agrees with both at {sum(inside)} "
        f"of the {len(inside)} steps (of {len(bounds.bits)}) whose bits are above 0 beyond chance. "
        "Bits and error are of one probe, so agreement says that it is calibrated, no more; the "
        f"last digit of the model's own answer is wrong in {with_interval(model_error, 100)} % of "
        "problems: bounds are of guesses from a state, not of what follows.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
