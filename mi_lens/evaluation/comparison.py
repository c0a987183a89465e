"""A condition against another on the same problems: what changed, where, and what could be seen.

Outcomes are paired by problem. A gain in accuracy is split into what was cut off before and what
had ended by itself: much of SEAL's gain is truncation recovered, and a method that only shortens
should say so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mi_lens.common.html import table
from mi_lens.common.provenance import differences
from mi_lens.common.statistics import (
    Estimate,
    estimate_mean,
    holm,
    mcnemar,
    paired_power,
    problems_needed,
    sign_flip,
)
from mi_lens.evaluation.result import Result


@dataclass(frozen=True)
class Arm:
    """The results of one condition, and all else that may change a result.

    Attributes:
        name: Of the condition.
        results: One a problem and seed.
        setting: Model, engine, dtype, prompt style, budget, versions.
    """

    name: str
    results: tuple[Result, ...]
    setting: dict[str, Any]

    def by_problem(self) -> dict[tuple[str, str], list[Result]]:
        """Results of each problem, seeds in order."""
        found: dict[tuple[str, str], list[Result]] = {}
        for result in sorted(self.results, key=lambda r: r.seed):
            found.setdefault((result.source, result.problem), []).append(result)
        return found

    def accuracy(self) -> Estimate:
        """Share of right answers, with an interval over problems."""
        return _mean(self.results, lambda r: float(r.correct))

    def tokens(self) -> Estimate:
        """Tokens a trace, with an interval over problems."""
        return _mean(self.results, lambda r: float(r.tokens))

    def accuracy_within(self, budgets: Sequence[int]) -> list[float]:
        """Share answered rightly in at most so many tokens."""
        return [
            float(np.mean([r.correct and r.tokens <= budget for r in self.results]))
            for budget in budgets
        ]


@dataclass(frozen=True)
class Comparison:
    """A condition against another, on the same problems.

    Attributes:
        name: Of the condition.
        against: Of the other.
        problems: How many.
        accuracy: Of the condition.
        difference: In accuracy, paired by problem, with an interval over problems.
        mended: Problems and seeds that only the condition answers rightly.
        broken: Those that only the other does.
        p_value: Exact McNemar test; with several seeds, signs of the problems' mean differences
            drawn anew.
        adjusted: The p-value after Holm's correction over the comparisons made together.
        tokens: Difference in tokens, paired, with an interval.
        within: Difference in accuracy when both are held to each of four budgets: an eighth, a
            quarter, half and all of the cap.
        split: The difference among the pairs that the other condition had capped, among those that
            it had finished, and at each level.
        power: Chance to find a gain of five points with so many problems and as many changes.
        needed: Problems needed to find the gain that was seen, with probability .8.
        settings_differ: Settings in which the two runs differ; none of a difference between these
            can be told from the condition's.
    """

    name: str
    against: str
    problems: int
    accuracy: float
    difference: Estimate
    mended: int
    broken: int
    p_value: float
    adjusted: float
    tokens: Estimate
    within: dict[int, float]
    split: dict[str, Estimate]
    power: float
    needed: int | None
    settings_differ: tuple[str, ...]

    def _repr_html_(self) -> str:
        about: dict[str, Any] = {
            "problems": self.problems,
            "accuracy, %": 100 * self.accuracy,
            "difference, points": self.difference.in_form("+.1f", 100.0),
            "mended, broken": f"{self.mended}, {self.broken}",
            "p, adjusted": f"{self.p_value:.2g}, {self.adjusted:.2g}",
            "tokens, difference": self.tokens.in_form("+.1f"),
            **{
                f"{name} [{part.n}]": part.in_form("+.1f", 100.0)
                for name, part in self.split.items()
            },
            **{f"within {b:,} tokens": f"{100 * d:+.1f}" for b, d in self.within.items()},
            "power for 5 points": self.power,
            "problems needed": self.needed,
            "settings that differ": "; ".join(self.settings_differ) or "none",
        }
        return table(about, caption=f"{self.name} against {self.against}")


def compare(arm: Arm, against: Arm, *, seed: int = 0) -> Comparison:
    """One condition against another; the two may come from different evaluations.

    Raises:
        ValueError: If they do not have the same problems and seeds.
    """
    mine, theirs = arm.by_problem(), against.by_problem()
    pairs = _paired(arm, against)
    changes = [float(a.correct) - float(b.correct) for a, b in pairs]
    several = len(pairs) > len(mine)
    if several:
        by_problem = [
            float(
                np.mean([r.correct for r in mine[key]]) - np.mean([r.correct for r in theirs[key]])
            )
            for key in mine
        ]
        p_value = sign_flip(by_problem, seed=seed)
    else:
        p_value = mcnemar([b.correct for _, b in pairs], [a.correct for a, _ in pairs])
    mended, broken = (sum(change == sign for change in changes) for sign in (1.0, -1.0))
    changed = (mended + broken) / len(pairs)
    gain = (mended - broken) / len(pairs)
    cap = int(against.setting.get("max_new_tokens", max(r.tokens for r in against.results)))
    budgets = [max(1, cap // 8), max(1, cap // 4), max(1, cap // 2), cap]
    within = zip(arm.accuracy_within(budgets), against.accuracy_within(budgets), strict=True)
    return Comparison(
        name=arm.name,
        against=against.name,
        problems=len(mine),
        accuracy=float(np.mean([a.correct for a, _ in pairs])),
        difference=_paired_mean(pairs, lambda a, b: float(a.correct) - float(b.correct), seed),
        mended=mended,
        broken=broken,
        p_value=p_value,
        adjusted=p_value,
        tokens=_paired_mean(pairs, lambda a, b: float(a.tokens - b.tokens), seed),
        within={b: x - y for b, (x, y) in zip(budgets, within, strict=True)},
        split=_split(pairs, seed),
        power=paired_power(len(pairs), 0.05, max(changed, 0.05)),
        needed=problems_needed(gain, changed) if gain else None,
        settings_differ=settings_that_differ(arm.setting, against.setting),
    )


def compare_all(arms: Iterable[Arm], against: Arm, *, seed: int = 0) -> list[Comparison]:
    """Several conditions against one, with Holm's correction over them."""
    found = [compare(arm, against, seed=seed) for arm in arms]
    adjusted = holm([one.p_value for one in found])
    return [
        Comparison(**{**vars(one), "adjusted": p}) for one, p in zip(found, adjusted, strict=True)
    ]


def settings_that_differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of settings in which two runs differ, with both values."""
    return tuple(f"{name}: {x!r} against {y!r}" for name, (x, y) in differences(a, b).items())


def _paired(arm: Arm, against: Arm) -> list[tuple[Result, Result]]:
    def key(result: Result) -> tuple[str, str, int]:
        return result.source, result.problem, result.seed

    mine, theirs = ({key(r): r for r in some.results} for some in (arm, against))
    alone = mine.keys() ^ theirs.keys()
    if alone or len(mine) != len(arm.results):
        raise ValueError(
            f"{arm.name!r} and {against.name!r} do not have the same problems and seeds: "
            f"{len(alone)} are in one only, as {min(alone) if alone else 'a repeated problem'}; "
            "compare runs on one set of problems"
        )
    return [(mine[k], theirs[k]) for k in mine]


Pair = tuple[Result, Result]


def _mean(results: Iterable[Result], value: Callable[[Result], float]) -> Estimate:
    by_problem: dict[tuple[str, str], list[float]] = {}
    for result in results:
        by_problem.setdefault((result.source, result.problem), []).append(value(result))
    return estimate_mean([float(np.mean(values)) for values in by_problem.values()])


def _paired_mean(
    pairs: Sequence[Pair], value: Callable[[Result, Result], float], seed: int
) -> Estimate:
    by_problem: dict[tuple[str, str], list[float]] = {}
    for a, b in pairs:
        by_problem.setdefault((a.source, a.problem), []).append(value(a, b))
    return estimate_mean([float(np.mean(values)) for values in by_problem.values()], seed=seed)


def _split(pairs: Sequence[Pair], seed: int) -> dict[str, Estimate]:
    parts: dict[str, list[Pair]] = {
        "capped before": [pair for pair in pairs if pair[1].capped],
        "finished before": [pair for pair in pairs if not pair[1].capped],
    }
    for level in sorted({a.level for a, _ in pairs if a.level is not None}):
        parts[f"level {level}"] = [pair for pair in pairs if pair[0].level == level]
    return {
        name: _paired_mean(some, lambda a, b: float(a.correct) - float(b.correct), seed)
        for name, some in parts.items()
        if some
    }
