"""Whether the baseline itself comes out the same in other dtypes, engines and batch sizes.

python -m experiments.reproducibility
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import Finding, Study, Verdict, said, save
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.evaluation.comparison import Arm, Comparison, compare_all
from mi_lens.evaluation.evaluate import grade_trace
from mi_lens.generation.engines.hugging_face import generate_with_transformers
from mi_lens.models.backends.lookup import available
from mi_lens.models.pocket import CHECKPOINTS
from mi_lens.report.plots.style import BLUE, GREEN, ORANGE, PAGE, dots, style

Traces = list[mi_lens.Trace]


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run; the first dtype, with the first backend and in batches, is the reference.

    Attributes:
        dtypes: Of the package's own engines.
        hugging_face: Also Hugging Face's `generate`, in float32.
    """

    limit: int = 60
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16")
    hugging_face: bool = True


@dataclass(frozen=True)
class Sameness:
    """Traces of one way of computing against the reference.

    Attributes:
        identical: Share of problems whose traces agree in every token.
        first_step: Where those that differ first do, as a fraction of the reference's trace.
        first_steps: The same in tokens, a number a problem that differs.
    """

    identical: Estimate
    first_step: Estimate
    first_steps: list[int]


def main(config: Config) -> None:
    """The same problems, greedily, by every way of computing."""
    problems = config.load_problems()
    requests = [mi_lens.Request(one, max_new_tokens=config.max_new_tokens) for one in problems]
    fingerprints: dict[str, str] = {}
    made: dict[str, Traces] = {}
    ways = [(available()[0], dtype, config.batch_size) for dtype in config.dtypes]
    ways.insert(1, (available()[0], config.dtypes[0], 1))
    ways += [(backend, config.dtypes[0], config.batch_size) for backend in available()[1:]]
    tokenizer = None
    for backend, dtype, rows in ways:
        model = mi_lens.load(config.model, backend=backend, dtype=dtype)
        tokenizer = model.tokenizer
        fingerprints[f"{backend}, {dtype}"] = mi_lens.model_fingerprint(model)
        made[f"{backend}, {dtype}, batch {rows}"] = mi_lens.generate(
            model, requests, batch_size=rows
        )
    if config.hugging_face:
        for rows in (config.batch_size, 1):
            made[f"Hugging Face, float32, batch {rows}"] = generate_with_transformers(
                CHECKPOINTS.get(config.model, config.model), requests, batch_size=rows,
                dtype="float32",
            )  # fmt: skip
    arms = [
        Arm(name, tuple(grade_trace(trace, tokenizer) for trace in traces),
            {"max_new_tokens": config.max_new_tokens, "way": name})
        for name, traces in made.items()
    ]  # fmt: skip
    comparisons = compare_all(arms[1:], arms[0])
    reference, *others = made.values()
    found = {
        one.name: sameness(traces, reference)
        for one, traces in zip(comparisons, others, strict=True)
    }
    print(f"{arms[0].name}: accuracy {said(arms[0].accuracy(), 100)}")
    for one in comparisons:
        print(f"{one.name:<34}identical {said(found[one.name].identical, 100):<26}"
              f"accuracy {said(one.difference, 100)}")  # fmt: skip
    save(
        config,
        {config.model: next(iter(fingerprints.values()))},
        draw(found, comparisons, arms[0].name),
        finding(found, comparisons, arms[0]),
        {"reference": arms[0].name, "fingerprints": fingerprints,
         "accuracy": {arm.name: arm.accuracy() for arm in arms},
         "sameness": found, "comparisons": comparisons},
    )  # fmt: skip


def sameness(traces: Traces, reference: Traces) -> Sameness:
    """Of two sets of traces of the same problems."""
    first = [first_difference(a, b) for a, b in zip(traces, reference, strict=True)]
    apart = [(step, len(b)) for step, b in zip(first, reference, strict=True) if step is not None]
    return Sameness(
        estimate_mean([float(step is None) for step in first]),
        estimate_mean([step / length for step, length in apart]),
        [step for step, _ in apart],
    )


def first_difference(a: mi_lens.Trace, b: mi_lens.Trace) -> int | None:
    """The first step at which two traces differ, or None."""
    pairs = zip(a.token_ids, b.token_ids, strict=False)
    step = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
    return None if a.token_ids == b.token_ids else step


def draw(
    found: Mapping[str, Sameness], comparisons: Sequence[Comparison], reference: str
) -> Figure:
    """Shares of identical traces, where the others part, and what that does to accuracy."""
    names = list(found)
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 0.9 + 0.24 * len(names)), sharey=True)
        some = list(found.values())
        dots(panels[0], [one.identical for one in some], BLUE, scale=100.0)
        dots(panels[1], [one.first_step for one in some], GREEN, scale=100.0)
        dots(panels[2], [one.difference for one in comparisons], ORANGE, scale=100.0)
        labels = ("identical traces\n(%, 95 %)", "where others first differ\n(% of trace, 95 %)",
                  "accuracy less reference\n(points, 95 %)")  # fmt: skip
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
    found: Mapping[str, Sameness], comparisons: Sequence[Comparison], reference: Arm
) -> Finding:
    """Whether the way of computing changes traces, and whether it changes accuracy."""
    parted = [name for name, one in found.items() if one.first_steps]
    moved = [one.name for one in comparisons if one.adjusted <= 0.05]
    verdict: Verdict = "against" if moved else "in part" if parted else "with"
    least = min(found, key=lambda name: found[name].identical.mean or 0)
    most = max(
        comparisons,
        key=lambda one: (abs(one.difference.mean or 0), -(found[one.name].identical.mean or 0)),
    )
    return Finding(
        about="paper 2; criticism: its baseline did not come out the same in other hands",
        claim="A greedy baseline is the model's, whatever computes it.",
        verdict=verdict,
        text=f"Of {len(found)} other dtypes, engines and batch sizes {len(parted)} "
        f"{'changes' if len(parted) == 1 else 'change'} a trace"
        + (
            f", most of all {least}, which leaves {said(found[least].identical, 100)} % as in "
            if parted
            else "; all are as in "
        )
        + f"{reference.name}. "
        + (
            f"Accuracy changes most with {most.name}, by {said(most.difference, 100)} points from "
            if most.difference.mean
            else "No way changes the share of right answers, "
        )
        + f"{said(reference.accuracy(), 100)} % on {most.problems} problems; {len(moved)} of "
        f"{len(found)} ways change it beyond chance (exact tests, Holm, .05).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
