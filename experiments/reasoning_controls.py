"""The methods that the field compares, and their controls, under one prompt, cap and seed.

python -m experiments.reasoning_controls

For a reasoning model the same set runs on vLLM by one command (docs/evaluation.md).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import Finding
from experiments.steering import SteeringStudy, vector_traces
from experiments.study import save, saved_evaluation
from experiments.summaries import with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import GAIN, Verdict
from mi_lens.evaluation.reasoning_controls import DRAWN
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, dots, style

COLOURS: dict[Verdict, str] = {"better": GREEN, "worse": ORANGE, "equivalent": BLUE, "open": GREY}
NOTHING = Estimate(None, None, None, 0)


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run.

    Attributes:
        draws: Number of random directions, and of sets of matched words.
        tight: A second budget; None means the median length of the baseline's traces.
    """

    vector_limit: int | None = 100
    draws: int = 3
    tight: int | None = None


def main(config: Config) -> None:
    """Evaluates all conditions at two budgets, each with traces of its own."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    traces = vector_traces(config, model, problems)
    made = mi_lens.Controls(draws=config.draws, seed=config.seed).make(model, traces)
    for name, why in made.left_out.items():
        print(f"left out: {name}: {why}")
    wide = saved_evaluation(config, model, problems, made.conditions)
    lengths = [result.length for result in wide.arm("baseline").results]
    tight = config.tight or int(np.median(lengths))
    if tight >= config.max_new_tokens:
        raise ValueError(
            f"a tight budget of {tight} tokens, where traces have at most {config.max_new_tokens}: "
            "expected a smaller one; raise --max-new-tokens"
        )
    narrow = saved_evaluation(
        replace(config, max_new_tokens=tight), model, problems, made.conditions
    )
    caps = {config.max_new_tokens: wide, tight: narrow}
    for cap, evaluation in caps.items():
        print(f"\nAt most {cap} tokens\n{evaluation.report()}")
    comparisons = {cap: evaluation.comparisons() for cap, evaluation in caps.items()}
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(comparisons, {name: costs(wide, name) for name in wide.names[1:]}),
        finding(wide, comparisons, made.left_out),
        {
            "comparisons": comparisons,
            "verdicts": {cap: {c.name: c.verdict for c in of} for cap, of in comparisons.items()},
            "accuracy": {
                cap: {name: evaluation.arm(name).accuracy() for name in evaluation.names}
                for cap, evaluation in caps.items()
            },
            "passes": {
                cap: {name: evaluation.arm(name).passes() for name in evaluation.names}
                for cap, evaluation in caps.items()
            },
            "left out": made.left_out,
            "conditions": wide.conditions,
        },
    )


def costs(evaluation: mi_lens.Evaluation, name: str) -> Estimate:
    """Forward passes of a condition less those of the baseline, paired by problem."""
    passes = [
        {result.problem_key: result.forward_passes or 0.0 for result in evaluation.arm(arm).results}
        for arm in (name, evaluation.names[0])
    ]
    return estimate_mean([passes[0][problem] - passes[1][problem] for problem in passes[0]])


def draw(
    comparisons: Mapping[int, Sequence[mi_lens.Comparison]], more_passes: Mapping[str, Estimate]
) -> Figure:
    """Accuracy at both budgets with the margin of equivalence; tokens and passes at the wide."""
    wide, tight = max(comparisons), min(comparisons)
    names = [comparison.name for comparison in comparisons[wide]]
    with style():
        figure, panels = plt.subplots(
            1, 4, figsize=(PAGE, 0.9 + 0.17 * len(names)), sharey=True, width_ratios=(3, 3, 3, 3)
        )
        for axes, cap in zip(panels, (wide, tight), strict=False):
            _verdicts(axes, comparisons[cap])
            axes.set_xlabel(f"accuracy less baseline\nat most {cap} tokens\n(points, 95 %)")
        for part, colour, shift in (("finished", BLUE, -0.14), ("capped", ORANGE, 0.14)):
            parts = [c.split.get(f"{part} before", NOTHING) for c in comparisons[tight]]
            label = f"baseline {part} ({max(each.n for each in parts)})"
            dots(panels[2], parts, [colour] * len(parts), scale=100.0, shift=shift, label=label)
        panels[2].set_xlabel(f"the same by part\nat most {tight} tokens\n(points, 95 %)")
        panels[2].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        tokens = [comparison.tokens for comparison in comparisons[wide]]
        passes = [more_passes[name] for name in names]
        dots(panels[3], tokens, [BLUE] * len(names), shift=-0.14, label="tokens")
        dots(panels[3], passes, [ORANGE] * len(names), shift=0.14, label="passes")
        panels[3].set_xlabel(f"cost less baseline\nat most {wide} tokens\n(per trace, 95 %)")
        panels[3].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        for axes in panels:
            axes.axvline(0, color="black", linewidth=0.5)
        panels[0].set_yticks(range(len(names)), names, parse_math=False)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _verdicts(axes: Axes, comparisons: Sequence[mi_lens.Comparison]) -> None:
    axes.axvspan(-100 * GAIN, 100 * GAIN, color=GREY, alpha=0.15, linewidth=0)
    colours = [COLOURS[comparison.verdict] for comparison in comparisons]
    dots(axes, [comparison.difference for comparison in comparisons], colours, scale=100.0)
    for verdict, colour in COLOURS.items():
        if any(comparison.verdict == verdict for comparison in comparisons):
            axes.plot([], [], "o", color=colour, label=verdict)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def finding(
    wide: mi_lens.Evaluation,
    comparisons: Mapping[int, Sequence[mi_lens.Comparison]],
    left_out: Mapping[str, str],
) -> Finding:
    """How many methods are better, equivalent, worse or open, at both budgets."""

    def told(cap: int) -> str:
        methods = [c for c in comparisons[cap] if not c.name.startswith(DRAWN)]
        counts = Counter(c.verdict for c in methods)
        parts = [f"{counts[verdict]} {verdict}" for verdict in COLOURS if counts[verdict]]
        best = max(methods, key=lambda c: c.difference.mean or 0.0)
        return (
            f"of {len(methods)} methods {', '.join(parts)} (best {best.name}, "
            f"{with_interval(best.difference, 100)} points)"
        )

    controls = [c for c in comparisons[max(comparisons)] if c.name.startswith(DRAWN)]
    changes = [100 * (c.difference.mean or 0.0) for c in controls]
    omitted = f"; left out: {', '.join(left_out)}" if left_out else ""
    return Finding(
        about="methods since both papers, under one prompt, cap and seed",
        claim="Which methods change accuracy or cost?",
        premises=(),
        tests=(),
        asked=False,
        text=f"At most {max(comparisons)} tokens, {told(max(comparisons))}, and at most "
        f"{min(comparisons)} tokens {told(min(comparisons))}. The {len(controls)} random "
        f"directions and sets of matched words change accuracy by {min(changes):+.1f} to "
        f"{max(changes):+.1f} points at the wide cap, where the baseline is right in "
        f"{with_interval(wide.arm(wide.names[0]).accuracy(), 100)} %{omitted}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
