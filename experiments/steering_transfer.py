"""SEAL's transfer between tasks: vectors of one kind of problem steer all other kinds.

python -m experiments.steering_transfer
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import Finding
from experiments.steering import (
    AT_RANDOM,
    NOT_STEERED,
    PUBLISHED_GAIN,
    PUBLISHED_SAVING,
    RESULTS,
    UNREFLECTED,
    SteeringStudy,
    excess_premise,
    random_directions,
    short_table,
    steering_tests,
    vector_traces,
)
from experiments.study import save, saved_evaluation
from experiments.summaries import outcomes, side, with_interval
from mi_lens.common.intervals import estimate_difference
from mi_lens.common.statistics import Estimate, estimate_crossed, estimate_mean, sign_flip
from mi_lens.report.plots.style import PAGE, style

Problem = mi_lens.Problem
KINDS: dict[str, Callable[[Problem], bool]] = {
    "bare, easier": lambda problem: "*" in problem.question and problem.level != "hard",
    "bare, hard": lambda problem: "*" in problem.question and problem.level == "hard",
    "worded, easier": lambda problem: "*" not in problem.question and problem.level != "hard",
    "worded, hard": lambda problem: "*" not in problem.question and problem.level == "hard",
}


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run. The kinds are four disjoint parts of the pocket task, or several sources.

    Attributes:
        sources: Benchmarks or folders with a train and a test split, such as "gsm8k". Each is a
            kind, with `limit` problems; none means the four kinds of the pocket task.
        draws: Number of random directions.
    """

    sources: tuple[str, ...] = ()
    draws: int = 5


def main(config: Config) -> None:
    """Steers all problems by the vector of every kind."""
    model = mi_lens.load(config.model)
    hook_name = config.hook_name(model)
    problems, traces = problems_and_traces(config, model)
    vectors = {
        kind: mi_lens.extract_steering_vectors(model, of_kind, [hook_name])[hook_name]
        for kind, of_kind in traces.items()
    }
    steered = [
        mi_lens.Condition((mi_lens.Steer(vector),), name=kind) for kind, vector in vectors.items()
    ]
    # Norms differ little between kinds; the controls have the largest.
    longest = max(vectors.values(), key=lambda vector: vector.norm)
    controls = random_directions(longest, config.draws, config.seed)
    evaluation = saved_evaluation(
        config,
        model,
        list(chain(*problems.values())),
        [mi_lens.Condition(), UNREFLECTED, *steered, *controls],
        folder=RESULTS,
    )
    print(short_table(evaluation))
    kind_of = np.array([kind for kind, of_kind in problems.items() for _ in of_kind])
    changes = {
        field: {
            kind: outcomes(evaluation.arm(kind), field)
            - outcomes(evaluation.arm("baseline"), field)
            for kind in vectors
        }
        for field in ("correct", "tokens")
    }
    matrix = {
        field: {
            kind: {other: of_field(change[kind_of == other], field) for other in problems}
            for kind, change in by_kind.items()
        }
        for field, by_kind in changes.items()
    }
    cosine = {
        kind: {other: _cosine(vectors[kind], vectors[other]) for other in vectors}
        for kind in vectors
    }
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(matrix, cosine),
        finding(changes, cosine, kind_of, evaluation, [control.name for control in controls]),
        {
            "hook": hook_name,
            "made from": {kind: len(vector.problems) for kind, vector in vectors.items()},
            "thoughts": {kind: vector.counts for kind, vector in vectors.items()},
            "norms": {kind: vector.norm for kind, vector in vectors.items()},
            "reliability": {kind: vector.reliability for kind, vector in vectors.items()},
            "change": matrix,
            "cosine": cosine,
            "comparisons": evaluation.comparisons(),
        },
    )


def problems_and_traces(
    config: Config, model
) -> tuple[dict[str, list[Problem]], dict[str, list[mi_lens.Trace]]]:
    """For every kind the problems to steer, and the traces of others that make its vector."""
    if len(config.sources) == 1:
        raise ValueError(
            f"sources={config.sources}: expected at least two, as vectors change place"
        )
    if config.sources:
        settings = {
            source: replace(config, problems=source, vector_problems=source)
            for source in config.sources
        }
        by_source = {source: setting.load_problems() for source, setting in settings.items()}
        evaluated = list(chain(*by_source.values()))
        return by_source, {
            source: vector_traces(setting, model, evaluated) for source, setting in settings.items()
        }
    if config.problems != "pocket":
        raise ValueError(
            f"problems={config.problems!r}: only the pocket task has kinds here; expected --sources"
        )
    problems = config.load_problems()
    traces = vector_traces(config, model, problems)
    by_kind = {
        kind: [problem for problem in problems if belongs(problem)]
        for kind, belongs in KINDS.items()
    }
    empty = [kind for kind, of_kind in by_kind.items() if not of_kind]
    if empty:
        raise ValueError(f"limit={config.limit}: no problems of kind {empty[0]!r}; expected more")
    return by_kind, {
        kind: [trace for trace in traces if trace.problem and belongs(trace.problem)]
        for kind, belongs in KINDS.items()
    }


def of_field(changes: np.ndarray, field: str) -> Estimate:
    """The mean change of "correct", a difference of shares, or of "tokens", over problems."""
    estimate = estimate_difference if field == "correct" else estimate_mean
    return estimate(changes.tolist())


def _cosine(vector: mi_lens.SteeringVector, other: mi_lens.SteeringVector) -> float:
    product = float(vector.vector.double() @ other.vector.double())
    return product / (vector.norm * other.norm)


Matrix = Mapping[str, Mapping[str, Estimate]]


def draw(matrix: Mapping[str, Matrix], cosine: Mapping[str, Mapping[str, float]]) -> Figure:
    """Changes, coloured where their interval excludes zero, and the cosines of the vectors."""
    kinds = list(cosine)
    names = [kind.replace(", ", "\n") for kind in kinds]
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 3.0), sharey=True)
        cosines = np.array([[cosine[kind][other] for other in kinds] for kind in kinds])
        cosine_texts = [[f"{value:.2f}" for value in row] for row in cosines]
        cells = [
            (*_cells(matrix["correct"], 100.0), "accuracy less baseline\n(points, 95 %)"),
            (*_cells(matrix["tokens"], 1.0), "tokens less baseline\n(95 %)"),
            (cosines, cosine_texts, "cosine of vectors\n"),
        ]
        for axes, (values, texts, title) in zip(panels, cells, strict=True):
            most = max(float(np.abs(values).max()), 1e-9)
            axes.imshow(values, cmap="PuOr", vmin=-most, vmax=most)
            for (row, column), value in np.ndenumerate(values):
                colour = "white" if abs(value) > 0.7 * most else "black"
                text = texts[row][column]
                axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
            axes.set_title(title)
            axes.set_xticks(range(len(kinds)), names, fontsize=6)
            axes.set_xlabel("tried on" if axes is not panels[2] else "made from")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        panels[0].set_yticks(range(len(kinds)), names, fontsize=6)
        panels[0].set_ylabel("made from")
    return figure


def _cells(matrix: Matrix, scale: float) -> tuple[np.ndarray, list[list[str]]]:
    """Means as colours, zero where an interval holds zero, and as texts with their intervals."""
    rows = [list(line.values()) for line in matrix.values()]
    means = [[scale * (cell.mean or 0) * abs(side(cell)) for cell in row] for row in rows]
    texts = [[with_interval(cell, scale, 0).replace(" (", "\n(") for cell in row] for row in rows]
    return np.array(means), texts


def finding(
    changes: Mapping[str, Mapping[str, np.ndarray]],
    cosine: Mapping[str, Mapping[str, float]],
    kind_of: np.ndarray,
    evaluation: mi_lens.Evaluation,
    controls: Sequence[str],
) -> Finding:
    """Changes by the vectors of other kinds and by that of the own kind, over all problems."""
    kinds = list(cosine)
    foreign, own, chance, more = {}, {}, {}, {}
    for field, by_kind in changes.items():
        table = np.array([by_kind[kind] for kind in kinds])
        is_own = np.array([[kind == other for other in kind_of] for kind in kinds])
        by_own = (table * is_own).sum(0)
        by_others = (table * ~is_own).sum(0) / (len(kinds) - 1)
        baseline = outcomes(evaluation.arm(evaluation.names[0]), field)
        random = np.array([outcomes(evaluation.arm(name), field) for name in controls])
        foreign[field] = of_field(by_others, field)
        own[field] = of_field(by_own, field)
        more[field] = estimate_crossed(by_others - (random - baseline))
        chance[field] = sign_flip(by_others.tolist())
    lowest = min(cosine[kind][other] for kind, other in permutations(kinds, 2))
    before = evaluation.arm(evaluation.names[0]).tokens().mean
    return Finding(
        about="paper 2, transfer between MATH, GSM8K and LiveCodeBench",
        claim="A vector made from one task raises accuracy and saves tokens on others.",
        premises=(excess_premise(evaluation),),
        tests=steering_tests(
            {NOT_STEERED: foreign["correct"], AT_RANDOM: more["correct"]},
            {NOT_STEERED: foreign["tokens"], AT_RANDOM: more["tokens"]},
            before,
        ),
        text="Vectors of other kinds of problems change accuracy by "
        f"{with_interval(foreign['correct'], 100)} points (p = {chance['correct']:.2g}) and tokens "
        f"by {with_interval(foreign['tokens'])}, those of the same kind by "
        f"{with_interval(own['correct'], 100)} and {with_interval(own['tokens'])}, "
        f"{with_interval(more['correct'], 100)} and {with_interval(more['tokens'])} apart from "
        f"{len(controls)} random directions (published of "
        f"MATH-500 itself: {100 * PUBLISHED_GAIN:.0f} points more and "
        f"{100 * PUBLISHED_SAVING:.0f} % fewer tokens). "
        f"The vectors of {len(kinds)} kinds have cosines of {lowest:.2f} and more with each other, "
        f"and the intervals are over {len(kind_of)} problems.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
