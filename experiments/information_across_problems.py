"""How many bits of the answer a probe reads across problems: along traces, at thinking tokens.

python -m experiments.information_across_problems
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

import mi_lens
from experiments.information_at_words import AtWords, thinking_and_ordinary
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIStudy, fingerprint_of, saved_analysis, states_of
from experiments.study import save
from experiments.summaries import rank_correlation, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.across_problems.aligned_steps import AlignedSteps
from mi_lens.information.across_problems.answer_parts import (
    AlignedInformation,
    Part,
    TrajectoryCorrelation,
)
from mi_lens.information.across_problems.probe import UsableInformation
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, style

FRACTIONS = tuple(i / 10 for i in range(11))
BOUNDARIES = (1, 2, 3, 4, 5)
MARGIN = 0.1  # Bits, or rank correlation, that would matter.
THINKING, ORDINARY = "thinking token", "ordinary token"


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run. All answers must be integers.

    Attributes:
        hook_name: Hook name of the states to read; None is the last block's hook_resid_post.
        words: Thinking tokens.
        parts: Parts of the answer that a probe reads; the finding is about the first part.
        shuffles: Number of shuffled labellings that give the floor.
        least: Smallest share of traces that must have a step for the step to count.
        draws: Number of draws of ordinary words, which thinking tokens are compared with; the
            first is drawn.
    """

    limit: int = 500
    hook_name: str | None = None
    words: tuple[str, ...] = ("Wait", "Hmm")
    parts: tuple[Part, ...] = ("last_digit", "parity", "size")
    shuffles: int = 10
    least: float = 0.2
    draws: int = 5


@dataclass(frozen=True)
class Row:
    """The numbers of one aligned step.

    Attributes:
        trace_mi: Mean of the per-trace MI at the step.
        bits: Usable information of each part, and of whole answers digit by digit.
        p_value: p-value of the kernel test of independence between states and numeric answers.
    """

    trace_mi: Estimate
    bits: dict[str, UsableInformation]
    p_value: float


def main(config: Config) -> None:
    """Reads the answer at every aligned step, and compares the bits with per-trace MI."""
    names = None if config.hook_name is None else (config.hook_name,)
    # This study needs no mismatched answers: a probe compares all problems anyway.
    analysis = saved_analysis(config, hook_names=names, mismatched=0)
    (hook,) = analysis.hook_names
    mi = [analysis.mi(trace, hook) for trace in analysis.analysed]
    tokenizer, states = mi_lens.load(config.model).tokenizer, states_of(analysis, hook)
    steps = aligned_steps(tokenizer, analysis.analysed, config)
    rows, informations = information(steps, states, analysis.analysed, mi, config)
    (part, *_), traces = config.parts, analysis.analysed
    drawn: dict[str, Any] = {name: getattr(config, name) for name in ("least", "draws", "seed")}
    at_words = thinking_and_ordinary(tokenizer, states, traces, config.words, part, **drawn)
    tracking = {
        name: mi_lens.correlate_with_trajectory(by_step, mi, seed=config.seed)
        for name, by_step in informations.items()
    }
    print(table(rows))
    for name, correlation in tracking.items():
        print(
            f"per-trace MI against bits of {name}: Spearman {correlation.rho:.2f} "
            f"({correlation.low:.2f} to {correlation.high:.2f} over problems, the steps held) over "
            f"{len(steps)} steps"
        )
    summaries = {
        name: {
            "trace_mi": row.trace_mi,
            "p_value": row.p_value,
            "bits": {part: summary(usable) for part, usable in row.bits.items()},
        }
        for name, row in rows.items()
    }
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(rows, config.parts),
        finding(informations[part], tracking[part], at_words, part),
        {
            "steps": summaries,
            "tracking": tracking,
            "at thinking and at ordinary words": at_words,
            "problems": {step.name: len(step.present) for step in steps},
        },
    )


def aligned_steps(tokenizer, traces: Sequence[mi_lens.Trace], config: Config) -> list[AlignedSteps]:
    """Steps at fractions, at boundaries, at thinking and ordinary tokens, and at the answer."""
    thinking = mi_lens.TokenSet.of(tokenizer, config.words).ids
    ordinary = set(mi_lens.matched_tokens(tokenizer, traces, thinking, seed=config.seed).values())
    steps = [mi_lens.at_fraction(traces, fraction) for fraction in FRACTIONS]
    steps += [mi_lens.at_boundary(tokenizer, traces, number, 1) for number in BOUNDARIES]
    for tokens, name in ((thinking, THINKING), (ordinary, ORDINARY)):
        steps += [mi_lens.at_token(traces, tokens, 1, offset, name=name) for offset in (-1, 0, 1)]
    steps.append(mi_lens.at_answer(tokenizer, traces))
    return [step for step in steps if len(step.present) >= max(config.least * len(traces), 5)]


def information(
    steps: Sequence[AlignedSteps],
    states: Sequence[Any],
    traces: Sequence[mi_lens.Trace],
    mi: Sequence[Sequence[float]],
    config: Config,
) -> tuple[dict[str, Row], dict[Part, list[AlignedInformation]]]:
    """Usable information and the kernel test at every step, and the information of each part."""
    answers = [trace.problem.answer for trace in traces if trace.problem is not None]
    labels = {part: mi_lens.answer_parts(answers, part) for part in config.parts}
    informations: dict[Part, list[AlignedInformation]] = {part: [] for part in config.parts}
    rows = {}
    floor: dict[str, Any] = {"shuffles": config.shuffles, "seed": config.seed}
    for step in tqdm(steps, desc="probe", disable=None):
        for part in config.parts:
            informations[part].append(mi_lens.information_at(step, states, labels[part], **floor))
        step_states = step.states(states)
        step_answers = [answers[i] for i in step.present]
        numbers = list(map(float, step_answers))
        test = mi_lens.independence_test(
            step_states, numbers, numeric=True, permutations=199, seed=config.seed
        )
        bits = {part: by_step[-1].usable for part, by_step in informations.items()}
        bits_and_digits = {
            **bits,
            "digits": mi_lens.digits_information(step_states, step_answers, **floor),
        }
        trace_mi = estimate_mean(step.values(mi).tolist())
        rows[step.name] = Row(trace_mi, bits_and_digits, test.p_value)
    return rows, informations


def summary(usable: UsableInformation) -> dict[str, Any]:
    """The numbers of an estimate, with its interval."""
    low, high = usable.interval
    names = ("bits", "floor", "floor_high", "entropy", "error")
    return {**{name: getattr(usable, name) for name in names}, "low": low, "high": high}


def table(rows: Mapping[str, Row]) -> str:
    """Bits of each part at each step, as a text table."""
    parts = next(iter(rows.values())).bits
    lines = [f"{'':<22}{'MI':>8}" + "".join(f"{part:>12}" for part in parts)]
    for name, row in rows.items():
        bits = "".join(f"{usable.bits:>12.2f}" for usable in row.bits.values())
        lines.append(f"{name:<22}{row.trace_mi.mean:>8.3f}{bits}")
    return "\n".join(lines)


def draw(rows: Mapping[str, Row], parts: Sequence[str]) -> Figure:
    """Bits of each part of the answer, and per-trace MI, at every aligned step."""
    x = np.arange(len(rows))
    with style():
        figure, axes = plt.subplots(
            len(parts) + 1, 1, figsize=(PAGE, 1.1 * (len(parts) + 1) + 0.9), sharex=True
        )
        for panel, part in zip(axes, parts, strict=False):
            draw_bits(panel, [row.bits[part] for row in rows.values()])
            panel.set_ylabel(f"{part.replace('_', ' ')}\n(bits)")
        for i, row in enumerate(rows.values()):
            axes[-1].plot(i, row.trace_mi.mean, "D", color=ORANGE, markersize=3)
            axes[-1].plot([i] * 2, [row.trace_mi.low, row.trace_mi.high], color=ORANGE)
        axes[-1].set_ylabel("per-trace MI\n(95 %)")
        names = [label(name) for name in rows]
        axes[-1].set_xticks(x, names, rotation=60, ha="right", rotation_mode="anchor")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def draw_bits(axes: Axes, usable: Sequence[UsableInformation]) -> None:
    """Usable information at every step, with its interval, floor and upper limit."""
    x = np.arange(len(usable))
    bits = np.array([information.bits for information in usable])
    low, high = np.array([information.interval for information in usable]).T
    errors = [bits - low, high - bits]
    points: dict[str, Any] = {"fmt": "o", "color": BLUE, "markersize": 3, "capsize": 2}
    axes.errorbar(x, bits, errors, label="usable information (95 %)", **points)
    floors = [information.floor_high for information in usable]
    axes.plot(x, floors, "_", color=GREY, markersize=7, label="shuffled answers (95 % quantile)")
    entropy = float(np.mean([information.entropy for information in usable]))
    axes.axhline(entropy, color=GREEN, linestyle="--", linewidth=0.7, label="H(y)")


def label(name: str) -> str:
    """A step's name on the axis: "before thinking token 1" for "thinking token 1 -1"."""
    for offset, word in ((" -1", "before"), (" +1", "after")):
        if name.endswith(offset):
            return f"{word} {name.removesuffix(offset)}"
    return name


def finding(
    informations: Sequence[AlignedInformation],
    tracking: TrajectoryCorrelation,
    at_words: AtWords | None,
    part: Part,
) -> Finding:
    """Whether bits grow along the trace, MI follows them, and thinking tokens carry more."""
    by_name = {step.at.name: step for step in informations}
    first, last = (by_name[f"fraction {end:g}"].usable for end in (0, 1))
    growth = estimate_mean(np.subtract(last.gains, first.gains).tolist())
    rho, p_value = rank_correlation(np.array(tracking.trace_mi), np.array(tracking.bits))
    nothing = Estimate(None, None, None, 0)
    effects = (
        ("bits at the end of a trace less those at its start", growth, "bits"),
        ("rank correlation of per-trace MI with bits over steps", rho, "of the correlation"),
        (
            "bits at thinking tokens less those at ordinary words",
            nothing if at_words is None else at_words.more,
            "bits",
        ),
    )
    if at_words is None:
        compared = "Too few traces have thinking tokens or ordinary words to compare them."
    else:
        ordinary = [bits.mean or 0.0 for bits in at_words.by_draw]
        compared = (
            f"At the first thinking token a probe reads {with_interval(at_words.thinking, 1, 2)} "
            f"bits, at {len(ordinary)} draws of words written as often and as late, "
            f"{min(ordinary):.2f} to {max(ordinary):.2f}, which is "
            f"{with_interval(at_words.more, 1, 2)} more at thinking tokens, draws and problems "
            "both at random."
        )
    return Finding(
        about="paper 1; criticism: MI of one pair is not MI of random variables",
        claim="Per-trace MI shows where the answer is known, most of all at thinking tokens.",
        tests=tuple(ClaimTest(name, effect, MARGIN, unit) for name, effect, unit in effects),
        text=f"A probe across problems reads {with_interval(growth, 1, 2)} bits of the "
        f"{words(part)} more at the end of a trace than at its start, and over "
        f"{len(tracking.bits)} steps per-trace MI follows these bits with a rank correlation of "
        f"{with_interval(rho, 1, 2)}, steps at random (p = {p_value:.2g} when steps are "
        f"exchanged). {compared}",
    )


def words(part: Part) -> str:
    """A part's name as it stands in a sentence."""
    return part.replace("_", " ")


if __name__ == "__main__":
    main(tyro.cli(Config))
