"""Whether the baseline stays the same in other dtypes, engines and batch sizes.

python -m experiments.reproducibility
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.study import Study, save
from experiments.summaries import affine, with_interval
from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import GAIN, Arm, Comparison, compare_all
from mi_lens.evaluation.graded_traces import grade_trace
from mi_lens.models.backends.lookup import available
from mi_lens.report.plots.style import BLUE, GREEN, ORANGE, PAGE, dots, style

Traces = list[mi_lens.Trace]


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run. The first dtype, in batches, on the first backend, is the reference.

    Attributes:
        dtypes: Dtypes of the package's own engines.
        hugging_face: Whether to run Hugging Face's `generate` too, in float32.
    """

    limit: int = 100  # With fewer, no change at all leaves 5 points possible.
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16")
    hugging_face: bool = True


@dataclass(frozen=True)
class Sameness:
    """Traces of one way of computing, compared with the reference.

    Attributes:
        identical: Share of problems whose traces agree in every token.
        first_step: First step at which traces differ, as a fraction of the reference's trace.
        first_steps: The same step in tokens, one number per problem whose traces differ.
    """

    identical: Estimate
    first_step: Estimate
    first_steps: list[int]


def main(config: Config) -> None:
    """Decodes the same problems greedily in every way of computing, and compares the traces."""
    problems = config.load_problems()
    requests = [
        mi_lens.Request(problem, max_new_tokens=config.max_new_tokens) for problem in problems
    ]
    by_way, fingerprints, tokenizer = traces_by_way(config, requests)
    arms = []
    for name, traces in by_way.items():
        results = tuple(grade_trace(trace, tokenizer) for trace in traces)
        arms.append(Arm(name, results, {"max_new_tokens": config.max_new_tokens, "way": name}))
    comparisons = compare_all(arms[1:], arms[0])
    reference, *others = by_way.values()
    by_name = {
        comparison.name: sameness(traces, reference)
        for comparison, traces in zip(comparisons, others, strict=True)
    }
    print(f"{arms[0].name}: accuracy {with_interval(arms[0].accuracy(), 100)}")
    for comparison in comparisons:
        identical = with_interval(by_name[comparison.name].identical, 100)
        change = with_interval(comparison.difference, 100)
        print(f"{comparison.name:<34}identical {identical:<26}accuracy {change}")
    save(
        config,
        {config.model: next(iter(fingerprints.values()))},
        draw(by_name, comparisons, arms[0].name),
        finding(by_name, comparisons, arms[0]),
        {
            "reference": arms[0].name,
            "fingerprints": fingerprints,
            "accuracy": {arm.name: arm.accuracy() for arm in arms},
            "sameness": by_name,
            "comparisons": comparisons,
        },
    )


def traces_by_way(
    config: Config, requests: Sequence[mi_lens.Request]
) -> tuple[dict[str, Traces], dict[str, str], Any]:
    """The traces of every way of computing, the fingerprints of its models, and a tokenizer."""
    by_way: dict[str, Traces] = {}
    fingerprints: dict[str, str] = {}
    tokenizer = None
    ways = [(available()[0], dtype, config.batch_size) for dtype in config.dtypes]
    ways.insert(1, (available()[0], config.dtypes[0], 1))
    ways += [(backend, config.dtypes[0], config.batch_size) for backend in available()[1:]]
    for backend, dtype, rows in ways:
        model = mi_lens.load(config.model, backend=backend, dtype=dtype)
        tokenizer = model.tokenizer
        fingerprints[f"{backend}, {dtype}"] = mi_lens.model_fingerprint(model)
        traces = mi_lens.generate(model, requests, batch_size=rows)
        by_way[f"{backend}, {dtype}, batch {rows}"] = traces
    if config.hugging_face:
        engine = mi_lens.load_engine(config.model, "huggingface", dtype="float32")
        for rows in (config.batch_size, 1):
            traces = mi_lens.generate(engine, requests, batch_size=rows)
            by_way[f"Hugging Face, float32, batch {rows}"] = traces
    return by_way, fingerprints, tokenizer


def sameness(traces: Traces, reference: Traces) -> Sameness:
    """How far traces agree with the reference's traces of the same problems."""
    steps = [first_difference(trace, other) for trace, other in zip(traces, reference, strict=True)]
    differences = [
        (step, len(other)) for step, other in zip(steps, reference, strict=True) if step is not None
    ]
    return Sameness(
        estimate_share([float(step is None) for step in steps]),
        estimate_mean([step / length for step, length in differences]),
        [step for step, _ in differences],
    )


def first_difference(trace: mi_lens.Trace, other: mi_lens.Trace) -> int | None:
    """The first step at which two traces differ, or None."""
    if trace.token_ids == other.token_ids:
        return None
    pairs = zip(trace.token_ids, other.token_ids, strict=False)
    differing = (step for step, (token, other_token) in enumerate(pairs) if token != other_token)
    return next(differing, min(len(trace), len(other)))


def draw(
    by_name: Mapping[str, Sameness], comparisons: Sequence[Comparison], reference: str
) -> Figure:
    """Share of identical traces, first step of difference, and change of accuracy, by way."""
    names = list(by_name)
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 0.9 + 0.24 * len(names)), sharey=True)
        ways = list(by_name.values())
        dots(panels[0], [way.identical for way in ways], BLUE, scale=100.0)
        dots(panels[1], [way.first_step for way in ways], GREEN, scale=100.0)
        differences = [comparison.difference for comparison in comparisons]
        dots(panels[2], differences, ORANGE, scale=100.0)
        labels = (
            "identical traces\n(%, 95 %)",
            "where others first differ\n(% of trace, 95 %)",
            "accuracy less reference\n(points, 95 %)",
        )
        for axes, label in zip(panels, labels, strict=True):
            axes.set_xlabel(label)
        for axes in panels[:2]:
            axes.set_xlim(-3, 103)
        panels[2].axvline(0, color="black", linewidth=0.5)
        most = max(1.0, *map(abs, panels[2].get_xlim()))
        panels[2].set_xlim(-most, most)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        panels[0].set_title(f"Reference: {reference}", fontsize=7)
    return figure


def finding(
    by_name: Mapping[str, Sameness], comparisons: Sequence[Comparison], reference: Arm
) -> Finding:
    """Whether the way of computing changes traces, and whether it changes accuracy."""
    parted = [name for name, way in by_name.items() if way.first_steps]
    moved = [comparison.name for comparison in comparisons if comparison.adjusted <= 0.05]
    least = min(by_name, key=lambda name: by_name[name].identical.mean or 0)
    most = max(
        comparisons,
        key=lambda comparison: (
            abs(comparison.difference.mean or 0),
            -(by_name[comparison.name].identical.mean or 0),
        ),
    )
    return Finding(
        about="paper 2; criticism: its baseline did not come out the same in other hands",
        claim="A greedy baseline is the model's, whatever computes it.",
        tests=tuple(
            ClaimTest(
                f"{100 * GAIN:.0f} points less the change of accuracy, up or down, with "
                f"{comparison.name}",
                affine(distance(comparison.difference), -100, 100 * GAIN),
                0.0,
                "points",
            )
            for comparison in comparisons
        ),
        text=f"Of {len(by_name)} other dtypes, engines and batch sizes {len(parted)} "
        f"{'changes' if len(parted) == 1 else 'change'} a trace"
        + (
            f", most of all {least}, which leaves {with_interval(by_name[least].identical, 100)} % "
            "as in "
            if parted
            else "; all are as in "
        )
        + f"{reference.name}. "
        + (
            f"Accuracy changes most with {most.name}, by {with_interval(most.difference, 100)} "
            "points from "
            if most.difference.mean
            else "No way changes the share of right answers, "
        )
        + f"{with_interval(reference.accuracy(), 100)} % on {most.problems} problems; {len(moved)} "
        f"of {len(by_name)} ways change it beyond chance (exact tests, Holm, .05).",
    )


def distance(change: Estimate) -> Estimate:
    """How far a change is from none, whichever way it goes."""
    if change.mean is None or change.low is None or change.high is None:
        return Estimate(None, None, None, change.n)
    least = max(change.low, -change.high, 0.0)
    return Estimate(abs(change.mean), least, max(-change.low, change.high), change.n)


if __name__ == "__main__":
    main(tyro.cli(Config))
