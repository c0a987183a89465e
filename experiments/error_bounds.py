"""Bounds on the error of a guess of the answer's last digit, along the trace (theorems 1 and 2).

python -m experiments.error_bounds
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import Finding, Study, Verdict, analysis, said, save, states_of
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.across_problems.error_bounds import entropy_bits
from mi_lens.information.across_problems.probe import UsableInformation
from mi_lens.problems.answers import boxed_answer
from mi_lens.report.plots.style import BLUE, GREY, ORANGE, PAGE, curve, legend_above, style

FRACTIONS = tuple(i / 10 for i in range(11))
DIGITS = 10
TITLES = {"step": "from one step", "accumulated": "from all steps so far"}


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run; problems whose answers are integers.

    Attributes:
        hook_name: Where to read; None is the last block's hook_resid_post.
    """

    limit: int = 500
    hook_name: str | None = None


@dataclass(frozen=True)
class Bounds:
    """Of one way to read, at every fraction of the trace.

    Attributes:
        bits: Usable information; of several steps never less than of fewer.
        interval: Of the usable information itself, over problems.
        lower: Theorem 1: no guess from what is read errs less, if it says no more than `bits`.
        upper: Theorem 2: the best guess errs at most so often, if it says at least `bits`.
        probe: Error of the probe on problems that it was not fitted to.
    """

    bits: list[float]
    interval: list[tuple[float, float]]
    lower: list[float]
    upper: list[float]
    probe: list[Estimate]


def main(config: Config) -> None:
    """Reads the digit at tenths of the trace and draws the bounds that follow."""
    names = None if config.hook_name is None else (config.hook_name,)
    # The same analysis as information_across_problems asks for: whichever is first makes it.
    found = analysis(config, hook_names=names, mismatched=0)
    (hook,) = found.hook_names
    answers = [trace.problem.answer for trace in found.analysed if trace.problem is not None]
    digits = mi_lens.answer_parts(answers, "last_digit")
    # The pocket task draws its answers uniformly; of others the frequencies are all there is.
    entropy = float(np.log2(DIGITS)) if config.problems == "pocket" else entropy_bits(digits)
    states = states_of(found, hook)
    steps = [mi_lens.at_fraction(found.analysed, fraction).states(states) for fraction in FRACTIONS]
    alone = [mi_lens.usable_information(s, digits, shuffles=0, seed=config.seed) for s in steps]
    together = mi_lens.accumulated_information(steps, digits, shuffles=0, seed=config.seed)
    bounds = {
        "step": bound(alone, [one.bits for one in alone], entropy),
        "accumulated": bound(together.estimates, together.running_maximum.tolist(), entropy),
    }
    given = [(boxed_answer(trace.text) or "?").strip()[-1:] for trace in found.analysed]
    wrong = [float(one != str(digit)) for one, digit in zip(given, digits, strict=True)]
    model_error = estimate_mean(wrong)
    print(table(bounds))
    save(
        config, {config.model: found.traces[0].model}, draw(bounds, model_error),
        finding(bounds["step"], model_error),
        {"fractions": FRACTIONS, "entropy": entropy, "model error": model_error, **bounds},
    )  # fmt: skip


def bound(estimates: Sequence[UsableInformation], bits: list[float], entropy: float) -> Bounds:
    """What both theorems say where so many bits are known."""
    found = mi_lens.error_bounds(entropy, bits, DIGITS)
    return Bounds(
        bits, [one.interval for one in estimates], found.lower.tolist(), found.upper.tolist(),
        [estimate_mean([1.0 - right for right in one.correct]) for one in estimates],
    )  # fmt: skip


def table(bounds: Mapping[str, Bounds]) -> str:
    """Bounds and errors as text."""
    lines = [f"{'fraction':<10}" + "".join(f"{TITLES[name]:>48}" for name in bounds)]
    for i, fraction in enumerate(FRACTIONS):
        cells = (
            f"{one.bits[i]:.2f} bits, {one.lower[i]:.2f} to {one.upper[i]:.2f}: "
            f"{said(one.probe[i], 1, 2)}"
            for one in bounds.values()
        )
        lines.append(f"{fraction:<10g}" + "".join(f"{cell:>48}" for cell in cells))
    return "\n".join(lines)


def draw(bounds: Mapping[str, Bounds], model_error: Estimate) -> Figure:
    """Both theorems along the trace, beside the probe's error and the model's own."""
    with style():
        figure, panels = plt.subplots(1, len(bounds), figsize=(PAGE, 2.4), sharey=True)
        for axes, (name, one) in zip(panels, bounds.items(), strict=True):
            axes.fill_between(
                FRACTIONS, one.lower, one.upper, facecolor="none", edgecolor=GREY, hatch="////",
                linewidth=0.5, label="between theorems 1 and 2",
            )  # fmt: skip
            curve(axes, FRACTIONS, one.probe, BLUE, "probe (95 %)", marker="o")
            whole = [model_error] * len(FRACTIONS)
            curve(axes, FRACTIONS, whole, ORANGE, "model's own answer (95 %)")
            axes.set_title(TITLES[name])
            axes.set_xlabel("fraction of the trace")
            axes.set_ylim(-0.03, 1)
        panels[0].set_ylabel("error of the last digit")
        legend_above(figure, panels[0])
    return figure


def finding(one: Bounds, model_error: Estimate) -> Finding:
    """Whether the probe's error falls and keeps within both bounds, up to its own uncertainty.

    Bounds and error are of one probe: that they agree can say no more than "in part", and that they
    do not is no word against the theorems.
    """
    inside = [
        (e.high if e.high is not None else 1.0) >= low and (e.low or 0.0) <= high
        for e, (bits, _), low, high in zip(
            one.probe, one.interval, one.lower, one.upper, strict=True
        )
        if bits > 0
    ]
    first, last = one.probe[0], one.probe[-1]
    verdict: Verdict = "against" if above(last, first) else "open"
    if above(first, last) and inside and all(inside):
        verdict = "in part"
    return Finding(
        about="paper 1, theorems 1 and 2",
        claim="The more information states hold on the answer, the lower both bounds on error.",
        verdict=verdict,
        text=f"From the first step to the last the error of a guess of the last digit goes from "
        f"{said(one.probe[0], 1, 2)} to {said(one.probe[-1], 1, 2)} and the bounds from "
        f"{one.lower[0]:.2f} and {one.upper[0]:.2f} to {one.lower[-1]:.2f} and {one.upper[-1]:.2f}"
        f"; it agrees with both at {sum(inside)} of the {len(inside)} steps (of {len(one.bits)}) "
        "whose bits are above 0 beyond chance. Bits and error are of one probe, so agreement says "
        "that it is calibrated, no more; the last digit of the model's own answer is wrong in "
        f"{said(model_error, 100)} % of problems: bounds are of guesses from a state, not "
        "of what follows.",
    )  # fmt: skip


def above(a: Estimate, b: Estimate) -> bool:
    """Whether the whole interval of one lies above that of the other."""
    return a.low is not None and b.high is not None and a.low > b.high


if __name__ == "__main__":
    main(tyro.cli(Config))
