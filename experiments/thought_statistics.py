"""How many thoughts of each class right and wrong traces have, by difficulty.

python -m experiments.thought_statistics
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.study import CLASS_MARKERS, Study, baseline_traces, save, settled_by_texts
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.intervals import estimate_share, estimate_unpaired_difference
from mi_lens.common.resampling import resample
from mi_lens.common.statistics import Estimate
from mi_lens.models.pocket.training.reasoning import GUESS_IS_RIGHT
from mi_lens.report.plots.style import CLASS_COLOURS, PAGE, dots, legend_above, style
from mi_lens.traces.thought_statistics import ThoughtStatistics
from mi_lens.traces.thoughts import THOUGHT_CLASSES

FEW = 0.25  # Thoughts a trace that would matter.
TABLE = (
    "The numbers of thoughts could not have come out otherwise: the program that wrote the "
    "training texts draws by level whether the guess is right, with probabilities "
    f"{', '.join(f'{p:g} ({level})' for level, p in GUESS_IS_RIGHT.items())}, and whether it is "
    "checked, and the traces read these tables back."
)
FEWEST = 5  # Traces that a group needs for an interval.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        limit: Number of problems; many are needed, as few traces are wrong.
        levels: Levels of difficulty, the easiest first. Problems with other levels use their own,
            in sorted order.
        traces: File of traces with gold answers, written with this model's tokenizer; None means
            greedy traces of the problems.
    """

    limit: int = 500
    levels: tuple[str, ...] = ("easy", "medium", "hard")
    traces: Path | None = None


def main(config: Config) -> None:
    """Counts the thoughts of every group of traces."""
    model = mi_lens.load(config.model)
    if config.traces is None:
        traces = baseline_traces(config, model, config.load_problems())
    else:
        traces = [trace for trace in mi_lens.load_traces(config.traces) if trace.problem]
        if not traces:
            raise ValueError(
                f"traces={config.traces}: no trace has a problem, whose answer and level are "
                "needed; give traces that were made from problems"
            )
    groups = mi_lens.thought_statistics(model.tokenizer, traces)
    present = sorted({group.level for group in groups if group.level is not None})
    levels = [level for level in config.levels if level in present] or present
    order: list[str | None] = [*levels, None]
    rows = sorted(
        (group for group in groups if group.correct is not None and group.level in order),
        key=lambda group: (order.index(group.level), not group.correct),
    )
    for row in rows:
        cells = [
            f"{kind} {with_interval(counts.thoughts_per_trace, digits=2)}"
            for kind, counts in row.classes.items()
        ]
        print(f"{name(row):<22}" + "  ".join(cells))
    by_group = differences(model, traces, levels)
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(rows),
        finding(config, by_group, levels, is_right(traces) > 0, levels_of(traces)),
        {"groups": groups, "differences": by_group},
    )


def differences(
    model, traces: Sequence[mi_lens.Trace], levels: Sequence[str]
) -> dict[str, dict[str, Estimate]]:
    """Differences in reflections and transitions per trace, between outcomes and between levels."""
    kinds = [
        [thought.thought_class for thought in mi_lens.split_thoughts(model.tokenizer, trace)]
        for trace in traces
    ]
    counts = {
        "reflection": np.array([of_trace.count("reflection") for of_trace in kinds], dtype=float),
        "transition": np.array([of_trace.count("transition") for of_trace in kinds], dtype=float),
    }
    counts["both"] = counts["reflection"] + counts["transition"]
    right = is_right(traces) > 0
    level_of = levels_of(traces)
    masks = {"wrong less right": (~right, right)}
    for level in levels:
        at_level = level_of == level
        masks[f"wrong less right, {level}"] = (~right & at_level, right & at_level)
    if len(levels) > 1:
        masks["hardest less easiest"] = (level_of == levels[-1], level_of == levels[0])
    return {
        groups: {kind: difference(values[first], values[second]) for kind, values in counts.items()}
        for groups, (first, second) in masks.items()
    }


def levels_of(traces: Sequence[mi_lens.Trace]) -> np.ndarray:
    """The level of every trace's problem; None where it has none."""
    return np.array([trace.problem.level if trace.problem else None for trace in traces])


def difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Difference of the means of two groups of traces; every trace has a problem of its own."""
    n, m = len(first), len(second)
    if min(n, m) < FEWEST:
        return Estimate(None, None, None, n + m)
    draws = resample(n) @ first / n - resample(m, seed=1) @ second / m
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(first.mean() - second.mean()), float(low), float(high), n + m)


def name(group: ThoughtStatistics) -> str:
    """A group's name, with its number of traces."""
    return f"{group.level or 'all'}, {'right' if group.correct else 'wrong'} ({group.traces})"


def draw(rows: Sequence[ThoughtStatistics]) -> Figure:
    """Thoughts and tokens per trace: one line per group, one colour and marker per class."""
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 0.7 + 0.26 * len(rows)), sharey=True)
        for axes, field, label in (
            (panels[0], "thoughts_per_trace", "thoughts a trace (95 %)"),
            (panels[1], "tokens_per_trace", "tokens a trace (95 %)"),
        ):
            for i, kind in enumerate(THOUGHT_CLASSES):
                estimates = [getattr(row.classes[kind], field) for row in rows]
                colour, marker = CLASS_COLOURS[kind], CLASS_MARKERS[kind]
                dots(axes, estimates, colour, shift=0.2 * (i - 1), markers=marker, label=kind)
            for line in range(1, len(rows)):
                if rows[line].level != rows[line - 1].level:
                    axes.axhline(line - 0.5, color="#dddddd", linewidth=0.5)
            axes.set_xlabel(label)
            axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        panels[0].set_yticks(range(len(rows)), [name(row) for row in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        legend_above(figure, panels[0])
    return figure


def finding(
    config: Config,
    by_group: dict[str, dict[str, Estimate]],
    levels: Sequence[str],
    right: np.ndarray,
    level_of: np.ndarray,
) -> Finding:
    """Whether wrong traces, and traces of the hardest level, have more reflections and transitions.

    Hard problems have more wrong traces and more thoughts. So wrong traces are compared with right
    ones of the same level, where there are levels.
    """
    wrong = by_group["wrong less right"]["both"]
    harder = by_group.get("hardest less easiest", {}).get("both")
    by_level = {level: by_group[f"wrong less right, {level}"]["both"] for level in levels}
    effects = {
        f"thoughts of wrong traces less those of right ones{f', {level}' if level else ''}": more
        for level, more in (by_level or {"": wrong}).items()
    }
    if harder:
        effects[f"thoughts at level {levels[-1]} less those at {levels[0]}"] = harder
    within = "; ".join(
        f"{with_interval(estimate, digits=2)} at level {level}"
        for level, estimate in by_level.items()
        if estimate.mean is not None
    )
    return Finding(
        about="paper 2, figures of thoughts by difficulty and correctness",
        claim="Wrong traces and harder problems have more reflection and transition thoughts.",
        premises=(*harder_is_harder(right, level_of, levels), *settled_by_texts(config, TABLE)),
        tests=tuple(
            ClaimTest(name, effect, FEW, "thoughts a trace") for name, effect in effects.items()
        ),
        text=(
            f"Wrong traces differ from right ones by {with_interval(wrong, digits=2)} reflection "
            "and "
            f"transition thoughts each" + (f" ({within})" if within else "")
            if wrong.mean is not None
            else "Too few traces are wrong, or right, to compare them"
        )
        + f"; {int((~right).sum())} of {len(right)} traces are wrong. "
        + (
            f"Traces of level {levels[-1]} differ from those of {levels[0]} by "
            f"{with_interval(harder, digits=2)}, "
            if harder and harder.mean is not None
            else "There are no two levels with traces enough, "
        )
        + f"and intervals are over {len(right)} problems.",
    )


def harder_is_harder(
    right: np.ndarray, level_of: np.ndarray, levels: Sequence[str]
) -> tuple[Premise, ...]:
    """Whether the hardest level has fewer right answers than the easiest; none with one level."""
    if len(levels) < 2:
        return ()
    easiest, hardest = (
        estimate_share(right[level_of == level].astype(float).tolist())
        for level in (levels[0], levels[-1])
    )
    return (
        Premise(
            f"The claim presupposes that problems of level {levels[-1]} are the harder ones: their "
            f"accuracy is {with_interval(hardest, 100)} %, that of level {levels[0]} "
            f"{with_interval(easiest, 100)} %.",
            "premise not met",
            affine(estimate_unpaired_difference(easiest, hardest), 100),
        ),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
