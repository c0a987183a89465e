"""What a vector does at several strengths, beside random directions of the same norm.

That a vector changes accuracy or length says little of its direction: a step of that size in any
direction may. So random directions take the vector's place at every strength, and the direction is
a random factor beside the problem: intervals are over both (`estimate_crossed`), and the vector has
a rank among the directions. With K directions, of which r do as much or more,

    p = (r + 1) / (K + 1),

as the vector would be one of K + 1 like directions if its own were nothing special: 19 directions
are needed for p = .05.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from mi_lens.common.html import table
from mi_lens.common.intervals import estimate_difference
from mi_lens.common.statistics import Estimate, estimate_crossed, estimate_mean
from mi_lens.evaluation.comparison import Arm
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer

Outcome = Literal["accuracy", "tokens"]
VARIED = ("alpha", "variant", "seed")  # What the conditions of one dose response differ in.


@dataclass(frozen=True)
class Effect:
    """What a vector changes against no steering, beside random directions.

    Attributes:
        vector: The change by the vector, paired by problem: a share of right answers with a score
            interval, or tokens with a bootstrap interval over problems.
        random: The mean change by random directions; the interval is over directions and problems.
        excess: The change by the vector less that by random directions; interval as before.
        directions: The change by each direction, the mean over problems.
        between: The standard deviation of directions beyond what the problems drawn explain; 0
            where they differ less than that.
        rank: How many directions change as much as the vector or more, in either direction.
        p_value: (rank + 1) / (number of directions + 1).
    """

    vector: Estimate
    random: Estimate
    excess: Estimate
    directions: tuple[float, ...]
    between: float
    rank: int
    p_value: float


@dataclass(frozen=True)
class DoseResponse:
    """The curves of a vector and of random directions.

    Attributes:
        alphas: The strengths, ascending.
        accuracy: The effect on accuracy at each strength.
        tokens: The effect on tokens at each strength.
        slopes: For "accuracy" and "tokens", the effect per unit of alpha: that of a line through no
            effect at no strength. It sums all strengths up, so it needs no correction for several.
        unit: What alpha counts (`Steer`).
        problems: Number of problems.
    """

    alphas: tuple[float, ...]
    accuracy: tuple[Effect, ...]
    tokens: tuple[Effect, ...]
    slopes: dict[Outcome, Effect]
    unit: str
    problems: int

    def __repr__(self) -> str:
        parts = [
            f"{outcome} {effect.vector.in_form('+.3g')} per unit of alpha, random directions "
            f"{effect.random.in_form('+.3g')}, p {effect.p_value:.2g}"
            for outcome, effect in self.slopes.items()
        ]
        return f"DoseResponse({self.problems} problems; {'; '.join(parts)})"

    def _repr_html_(self) -> str:
        rows = []
        for i, alpha in enumerate(self.alphas):
            for outcome, effect, scale in (
                ("accuracy, points", self.accuracy[i], 100.0),
                ("tokens", self.tokens[i], 1.0),
            ):
                cells = (effect.vector, effect.random, effect.excess)
                texts = [estimate.in_form("+.1f", scale) for estimate in cells]
                rows.append((f"{alpha:g}: {outcome}", *texts, f"{effect.p_value:.2g}"))
        head = ("alpha", "vector", "random directions", "vector less random", "p")
        return table(rows, head, f"dose response over {self.problems} problems")


def dose_conditions(
    vector: Any,
    alphas: Sequence[float],
    *,
    directions: int = 19,
    seed: int = 0,
    sampling: Sampling | None = None,
    **settings: Any,
) -> list[Condition]:
    """The conditions of a dose response: no steering; per strength, the vector and directions.

    Args:
        vector: As `Steer` takes it.
        alphas: Strengths other than 0.
        directions: Number of random directions, the same at each strength.
        seed: Seeds the first direction; the others count up.
        sampling: How tokens are drawn; None means greedily.
        **settings: Further settings of `Steer`, such as unit="state".

    Raises:
        ValueError: If there are no alphas, one is 0 or given twice; if there are fewer than two
            directions; or if a setting is not one of `Steer`, or one that is varied here.
    """
    if not alphas or 0 in alphas or len(set(alphas)) < len(alphas):
        raise ValueError(f"alphas={list(alphas)}: expected different strengths other than 0")
    if directions < 2:
        raise ValueError(f"directions={directions}: expected 2 or more; 19 can give p = .05")
    if varied := set(settings) & set(VARIED):
        raise ValueError(f"{sorted(varied)} is varied here; leave it out")
    drawn = Sampling() if sampling is None else sampling
    conditions = [Condition((), drawn, "no steering")]
    for alpha in alphas:
        steer = Steer(vector, alpha=alpha, **settings)
        conditions.append(Condition((steer,), drawn, f"vector, {alpha:g}"))
        for draw in range(directions):
            steer = Steer(vector, alpha=alpha, variant="random", seed=seed + draw, **settings)
            conditions.append(Condition((steer,), drawn, f"direction {draw + 1}, {alpha:g}"))
    return conditions


def dose_response(evaluation: Evaluation) -> DoseResponse:
    """The curves of an evaluation of `dose_conditions`, or of conditions of that form.

    Raises:
        ValueError: If the evaluation has no problems, or its conditions are not of that form: one
            without interventions, and others with one `Steer` each that differ only in alpha,
            variant and seed; at each alpha the vector and two or more random directions, the same
            at each.
    """
    by_alpha, baseline, unit = _roles(evaluation.conditions)
    base = evaluation.arm(baseline)
    changes: dict[Outcome, dict[float, tuple[np.ndarray, np.ndarray]]] = {
        "accuracy": {},
        "tokens": {},
    }
    for alpha, (steered, at_random) in sorted(by_alpha.items()):
        for outcome, by_strength in changes.items():
            by_strength[alpha] = (
                _change(evaluation.arm(steered), base, outcome),
                np.array([_change(evaluation.arm(name), base, outcome) for name in at_random]),
            )
    seeds = len(next(iter(base.by_problem().values())))
    alphas = tuple(changes["accuracy"])
    effects: dict[Outcome, tuple[Effect, ...]] = {
        outcome: tuple(
            _effect(
                *by_strength[alpha],
                estimate_difference(by_strength[alpha][0].tolist(), trials=seeds)
                if outcome == "accuracy"
                else estimate_mean(by_strength[alpha][0]),
            )
            for alpha in alphas
        )
        for outcome, by_strength in changes.items()
    }
    slopes: dict[Outcome, Effect] = {}
    for outcome, by_strength in changes.items():
        strengths = np.array(alphas) / np.square(alphas).sum()
        vector, random = (
            np.tensordot(strengths, np.array([by_strength[alpha][i] for alpha in alphas]), axes=1)
            for i in (0, 1)
        )
        slopes[outcome] = _effect(vector, random, estimate_mean(vector))
    return DoseResponse(
        alphas, effects["accuracy"], effects["tokens"], slopes, unit, len(base.by_problem())
    )


def _effect(
    vector: Float[np.ndarray, " problem"],
    random: Float[np.ndarray, "direction problem"],
    estimate: Estimate,
) -> Effect:
    of_direction = random.mean(1)
    rest = random - of_direction[:, None] - random.mean(0) + random.mean()
    count, problems = random.shape
    noise = (rest**2).sum() / ((count - 1) * (problems - 1)) / problems
    size = abs(float(vector.mean()))
    rank = int((np.abs(of_direction) >= size - 1e-12).sum())
    return Effect(
        vector=estimate,
        random=estimate_crossed(random),
        excess=estimate_crossed(vector - random),
        directions=tuple(of_direction.tolist()),
        between=float(np.sqrt(max(0.0, of_direction.var(ddof=1) - noise))),
        rank=rank,
        p_value=(rank + 1) / (count + 1),
    )


def _change(arm: Arm, base: Arm, outcome: Outcome) -> Float[np.ndarray, " problem"]:
    """For every problem the arm's mean outcome less that without steering."""
    ours, theirs = arm.by_problem(), base.by_problem()
    if ours.keys() != theirs.keys():
        raise ValueError(f"{arm.name!r} and {base.name!r} do not have the same problems")

    def mean(results: Sequence[Any]) -> float:
        return float(np.mean([r.correct if outcome == "accuracy" else r.length for r in results]))

    return np.array([mean(ours[key]) - mean(theirs[key]) for key in theirs])


def _roles(
    conditions: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[float, tuple[str, list[str]]], str, str]:
    """Names by alpha, of the vector and of directions; that of the baseline; and the unit."""
    wrong = "expected conditions such as mi_lens.dose_conditions makes"
    baselines = [name for name, each in conditions.items() if not each["interventions"]]
    if len(baselines) != 1:
        raise ValueError(f"{len(baselines)} conditions without interventions, not one; {wrong}")
    vectors: dict[float, list[str]] = {}
    drawn: dict[float, dict[int, str]] = {}
    shared: list[dict[str, Any]] = []
    for name, each in conditions.items():
        if name == baselines[0]:
            continue
        steer = each["interventions"][0]
        if len(each["interventions"]) > 1 or steer["kind"] != "Steer":
            raise ValueError(f"condition {name!r} is not one Steer; {wrong}")
        if steer["variant"] not in ("add", "random"):
            raise ValueError(f"condition {name!r} has variant={steer['variant']!r}; {wrong}")
        shared.append({k: v for k, v in steer.items() if k not in VARIED})
        if shared[-1] != shared[0]:
            raise ValueError(f"condition {name!r} differs in more than {list(VARIED)}; {wrong}")
        if steer["variant"] == "random":
            drawn.setdefault(steer["alpha"], {})[steer["seed"]] = name
        else:
            vectors.setdefault(steer["alpha"], []).append(name)
    seeds = {tuple(sorted(of_alpha)) for of_alpha in drawn.values()}
    if vectors.keys() != drawn.keys() or len(seeds) != 1 or len(next(iter(seeds))) < 2:
        raise ValueError(
            f"the vector at alpha {sorted(vectors)} and random directions at {sorted(drawn)}, by "
            f"{sorted(map(len, seeds))} seeds; {wrong}: the same directions at each alpha"
        )
    by_alpha = {
        alpha: (names[0], [drawn[alpha][seed] for seed in sorted(drawn[alpha])])
        for alpha, names in vectors.items()
    }
    return by_alpha, baselines[0], str(shared[0].get("unit", "vector"))
