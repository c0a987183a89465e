"""SEAL's transfer between tasks: vectors made from one kind of problem, added on every other.

python -m experiments.steering_transfer
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.steering import (
    GAIN,
    KEPT,
    SAVING,
    SteeringStudy,
    as_published_excluded,
    judged,
    short_table,
    vector_traces,
)
from experiments.study import Finding, evaluation, outcomes, said, save, side
from mi_lens.common.statistics import Estimate, estimate_mean, sign_flip
from mi_lens.report.plots.style import PAGE, style

Problem = mi_lens.Problem
KINDS: dict[str, Callable[[Problem], bool]] = {
    "bare, easier": lambda one: "*" in one.question and one.level != "hard",
    "bare, hard": lambda one: "*" in one.question and one.level == "hard",
    "worded, easier": lambda one: "*" not in one.question and one.level != "hard",
    "worded, hard": lambda one: "*" not in one.question and one.level == "hard",
}


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run: four disjoint kinds of the pocket task, or other sources of problems.

    Attributes:
        sources: Benchmarks or folders with a train and a test split, as "gsm8k", a kind each, in
            place of the pocket task's; `limit` of each.
    """

    sources: tuple[str, ...] = ()


def main(config: Config) -> None:
    """Steers all problems by every kind's vector."""
    model = mi_lens.load(config.model)
    hook_name = config.hook_name(model)
    problems, made_from = gathered(config, model)
    vectors = {
        kind: mi_lens.extract_steering_vectors(model, some, [hook_name])[hook_name]
        for kind, some in made_from.items()
    }
    everyone = [one for some in problems.values() for one in some]
    conditions = [
        mi_lens.Condition(),
        *(mi_lens.Condition((mi_lens.Steer(v),), name=kind) for kind, v in vectors.items()),
    ]
    found = evaluation(config, model, everyone, conditions, kept=KEPT)
    print(short_table(found))
    kind_of = np.array([kind for kind, some in problems.items() for _ in some])
    changes = {
        field: {
            kind: outcomes(found.arm(kind), field) - outcomes(found.arm("baseline"), field)
            for kind in vectors
        }
        for field in ("correct", "tokens")
    }
    matrix = {
        field: {
            kind: {on: estimate_mean(change[kind_of == on].tolist()) for on in problems}
            for kind, change in by_kind.items()
        }
        for field, by_kind in changes.items()
    }
    cosine = {a: {b: _cosine(vectors[a], vectors[b]) for b in vectors} for a in vectors}
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(matrix, cosine),
        finding(changes, cosine, kind_of, found.arm("baseline").tokens()),
        {
            "hook": hook_name,
            "made from": {kind: len(v.problems) for kind, v in vectors.items()},
            "thoughts": {kind: v.counts for kind, v in vectors.items()},
            "norms": {kind: v.norm for kind, v in vectors.items()},
            "reliability": {kind: v.reliability for kind, v in vectors.items()},
            "change": matrix, "cosine": cosine, "comparisons": found.comparisons(),
        },
    )  # fmt: skip


def gathered(
    config: Config, model
) -> tuple[dict[str, list[Problem]], dict[str, list[mi_lens.Trace]]]:
    """By kind the problems to steer, and the traces of others to make its vector from."""
    if len(config.sources) == 1:
        raise ValueError(
            f"sources={config.sources}: expected at least two, as vectors change place"
        )
    if config.sources:
        settings = {
            one: replace(config, problems=one, vector_problems=one) for one in config.sources
        }
        tried = {one: setting.load_problems() for one, setting in settings.items()}
        everyone = [one for some in tried.values() for one in some]
        return tried, {
            one: vector_traces(setting, model, everyone) for one, setting in settings.items()
        }
    if config.problems != "pocket":
        raise ValueError(
            f"problems={config.problems!r}: only the pocket task has kinds here; expected --sources"
        )
    problems = config.load_problems()
    traces = vector_traces(config, model, problems)
    parts = {
        kind: ([one for one in problems if belongs(one)],
               [one for one in traces if one.problem and belongs(one.problem)])
        for kind, belongs in KINDS.items()
    }  # fmt: skip
    empty = [kind for kind, (some, _) in parts.items() if not some]
    if empty:
        raise ValueError(f"limit={config.limit}: no problems of kind {empty[0]!r}; expected more")
    return {k: some for k, (some, _) in parts.items()}, {k: some for k, (_, some) in parts.items()}


def _cosine(a: mi_lens.SteeringVector, b: mi_lens.SteeringVector) -> float:
    return float(a.vector.double() @ b.vector.double()) / (a.norm * b.norm)


Matrix = Mapping[str, Mapping[str, Estimate]]


def draw(matrix: Mapping[str, Matrix], cosine: Mapping[str, Mapping[str, float]]) -> Figure:
    """Changes with their intervals, coloured where these exclude 0, and the vectors' cosines."""
    kinds = list(cosine)
    names = [kind.replace(", ", "\n") for kind in kinds]
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(PAGE, 3.0), sharey=True)
        shown = [
            (*_cells(matrix["correct"], 100.0), "accuracy less baseline\n(points, 95 %)"),
            (*_cells(matrix["tokens"], 1.0), "tokens less baseline\n(95 %)"),
            (np.array([[cosine[a][b] for b in kinds] for a in kinds]),
             [[f"{cosine[a][b]:.2f}" for b in kinds] for a in kinds], "cosine of vectors\n"),
        ]  # fmt: skip
        for axes, (values, texts, title) in zip(panels, shown, strict=True):
            most = max(float(np.abs(values).max()), 1e-9)
            axes.imshow(values, cmap="PuOr", vmin=-most, vmax=most)
            for (row, column), value in np.ndenumerate(values):
                axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=6,
                          color="white" if abs(value) > 0.7 * most else "black")  # fmt: skip
            axes.set_title(title)
            axes.set_xticks(range(len(kinds)), names, fontsize=6)
            axes.set_xlabel("tried on" if axes is not panels[2] else "made from")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        panels[0].set_yticks(range(len(kinds)), names, fontsize=6)
        panels[0].set_ylabel("made from")
    return figure


def _cells(matrix: Matrix, scale: float) -> tuple[np.ndarray, list[list[str]]]:
    """Means to colour, and to write with their intervals; zero where an interval holds zero."""
    rows = [list(line.values()) for line in matrix.values()]
    shown = [[scale * (one.mean or 0) * abs(side(one)) for one in row] for row in rows]
    return np.array(shown), [
        [said(one, scale, 0).replace(" (", "\n(") for one in row] for row in rows
    ]


def finding(
    changes: Mapping[str, Mapping[str, np.ndarray]],
    cosine: Mapping[str, Mapping[str, float]],
    kind_of: np.ndarray,
    before: Estimate,
) -> Finding:
    """Every problem steered by the vectors of the other kinds, and by its own kind's."""
    kinds = list(cosine)
    foreign, own, chance = {}, {}, {}
    for field, by_kind in changes.items():
        table = np.array([by_kind[kind] for kind in kinds])
        mine = np.array([[kind == one for one in kind_of] for kind in kinds])
        home = (table * mine).sum(0)
        away = (table * ~mine).sum(0) / (len(kinds) - 1)
        foreign[field], own[field] = estimate_mean(away.tolist()), estimate_mean(home.tolist())
        chance[field] = sign_flip(away.tolist())
    lowest = min(cosine[a][b] for a in kinds for b in kinds if a != b)
    gain, tokens = (
        side(foreign[field]) if chance[field] <= 0.05 else 0 for field in ("correct", "tokens")
    )
    excluded = as_published_excluded(foreign["correct"], foreign["tokens"], before.mean)
    return Finding(
        about="paper 2, transfer between MATH, GSM8K and LiveCodeBench",
        claim="A vector made from one task raises accuracy and saves tokens on others.",
        verdict=judged(gain, -tokens, excluded),
        text=f"Vectors of other kinds of problems change accuracy by "
        f"{said(foreign['correct'], 100)} points (p = {chance['correct']:.2g}) and tokens by "
        f"{said(foreign['tokens'])}, those of the same kind by {said(own['correct'], 100)} and "
        f"{said(own['tokens'])} (published of MATH-500 itself: {100 * GAIN:.0f} points "
        f"more and {100 * SAVING:.0f} % fewer tokens). "
        f"The vectors of {len(kinds)} kinds have cosines of {lowest:.2f} and more with each other, "
        f"and the intervals are over {len(kind_of)} problems.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
