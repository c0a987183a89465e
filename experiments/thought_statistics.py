"""How many thoughts of each class a trace has, by difficulty, where it is right and where wrong.

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
from experiments.study import Finding, Study, Verdict, baseline_traces, is_right, said, save, side
from mi_lens.common.resampling import resample
from mi_lens.common.statistics import Estimate
from mi_lens.report.plots.style import CLASS_COLOURS, PAGE, dots, legend_above, style
from mi_lens.traces.thought_statistics import ThoughtStatistics
from mi_lens.traces.thoughts import THOUGHT_CLASSES

FEWEST = 5  # Traces of a group, for an interval.
MARKERS = {"execution": "o", "reflection": "D", "transition": "^"}


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        limit: Number of problems; few of the traces are wrong.
        levels: Of difficulty, the easiest first; where the problems have others, those as sorted.
        traces: A file of traces with gold answers, made elsewhere with this model's tokenizer; in
            place of greedy ones of the problems.
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
        traces = [one for one in mi_lens.load_traces(config.traces) if one.problem]
        if not traces:
            raise ValueError(
                f"traces={config.traces}: no trace has a problem, whose answer and level are "
                "needed; give traces that were made from problems"
            )
    groups = mi_lens.thought_statistics(model.tokenizer, traces)
    there = sorted({one.level for one in groups if one.level is not None})
    levels = [level for level in config.levels if level in there] or there
    order: list[str | None] = [*levels, None]
    rows = sorted(
        (one for one in groups if one.correct is not None and one.level in order),
        key=lambda one: (order.index(one.level), not one.correct),
    )
    for one in rows:
        print(f"{name(one):<22}" + "  ".join(
            f"{kind} {said(counts.thoughts_per_trace, digits=2)}"
            for kind, counts in one.classes.items()
        ))  # fmt: skip
    found = differences(model, traces, levels)
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(rows),
        finding(found, levels, is_right(traces) > 0),
        {"groups": groups, "differences": found},
    )


def differences(
    model, traces: Sequence[mi_lens.Trace], levels: Sequence[str]
) -> dict[str, dict[str, Estimate]]:
    """Reflections and transitions a trace: wrong less right, hardest less easiest level."""
    kinds = [
        [one.thought_class for one in mi_lens.split_thoughts(model.tokenizer, trace)]
        for trace in traces
    ]
    counts = {
        "reflection": np.array([some.count("reflection") for some in kinds], dtype=float),
        "transition": np.array([some.count("transition") for some in kinds], dtype=float),
    }
    counts["both"] = counts["reflection"] + counts["transition"]
    right = is_right(traces) > 0
    level = np.array([one.problem.level if one.problem else None for one in traces])
    groups = {"wrong less right": (~right, right)}
    for one in levels:
        groups[f"wrong less right, {one}"] = (~right & (level == one), right & (level == one))
    if len(levels) > 1:
        groups["hardest less easiest"] = (level == levels[-1], level == levels[0])
    return {
        of: {kind: apart(values[a], values[b]) for kind, values in counts.items()}
        for of, (a, b) in groups.items()
    }


def apart(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Difference of two groups' means; every trace is of another problem."""
    if min(len(a), len(b)) < FEWEST:
        return Estimate(None, None, None, len(a) + len(b))
    draws = resample(len(a)) @ a / len(a) - resample(len(b), seed=1) @ b / len(b)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(a.mean() - b.mean()), float(low), float(high), len(a) + len(b))


def name(one: ThoughtStatistics) -> str:
    """Of a group, with its number of traces."""
    return f"{one.level or 'all'}, {'right' if one.correct else 'wrong'} ({one.traces})"


def draw(rows: Sequence[ThoughtStatistics]) -> Figure:
    """Thoughts and tokens a trace, a line a group, a colour and marker a class."""
    with style():
        figure, panels = plt.subplots(
            1, 2, figsize=(PAGE, 0.7 + 0.26 * len(rows)), sharey=True
        )  # fmt: skip
        for axes, field, label in (
            (panels[0], "thoughts_per_trace", "thoughts a trace (95 %)"),
            (panels[1], "tokens_per_trace", "tokens a trace (95 %)"),
        ):
            for i, kind in enumerate(THOUGHT_CLASSES):
                estimates = [getattr(one.classes[kind], field) for one in rows]
                dots(axes, estimates, CLASS_COLOURS[kind], shift=0.2 * (i - 1),
                     markers=MARKERS[kind], label=kind)  # fmt: skip
            for line in range(1, len(rows)):
                if rows[line].level != rows[line - 1].level:
                    axes.axhline(line - 0.5, color="#dddddd", linewidth=0.5)
            axes.set_xlabel(label)
            axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        panels[0].set_yticks(range(len(rows)), [name(one) for one in rows])
        panels[0].set_ylim(len(rows) - 0.4, -0.6)
        legend_above(figure, panels[0])
    return figure


def finding(
    found: dict[str, dict[str, Estimate]], levels: Sequence[str], right: np.ndarray
) -> Finding:
    """Whether wrong traces, and those of the hardest level, reflect and turn more.

    Hard problems have more wrong traces and more thoughts, so that wrong traces are judged beside
    right ones of their own level, where there are levels.
    """
    wrong = found["wrong less right"]["both"]
    harder = found.get("hardest less easiest", {}).get("both")
    by_level = {one: found[f"wrong less right, {one}"]["both"] for one in levels}
    signs = {side(one) for one in by_level.values()} if levels else {side(wrong)}
    more = 0 if signs >= {-1, 1} else sum(signs)
    parts = [more, *([side(harder)] if harder else [])]
    verdict: Verdict = "in part"
    if min(parts) > 0:
        verdict = "with"
    elif max(parts) <= 0 and 1 not in signs:
        verdict = "against" if min(parts) < 0 else "open"
    within = "; ".join(
        f"{said(one, digits=2)} at level {level}"
        for level, one in by_level.items()
        if one.mean is not None
    )
    return Finding(
        about="paper 2, figures of thoughts by difficulty and correctness",
        claim="Wrong traces and harder problems have more reflection and transition thoughts.",
        verdict=verdict,
        text=(
            f"Wrong traces differ from right ones by {said(wrong, digits=2)} reflection and "
            f"transition thoughts each" + (f" ({within})" if within else "")
            if wrong.mean is not None
            else "Too few traces are wrong, or right, to compare them"
        )
        + f"; {int((~right).sum())} of {len(right)} traces are wrong. "
        + (
            f"Traces of level {levels[-1]} differ from those of {levels[0]} by "
            f"{said(harder, digits=2)}, "
            if harder and harder.mean is not None
            else "There are no two levels with traces enough, "
        )
        + f"and intervals are over {len(right)} problems.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
