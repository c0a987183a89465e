"""Compares two conditions on the same problems: what changed, where, and with what power.

Outcomes are paired by problem. A gain in accuracy is split by whether the other condition's trace
was cut off or ended by itself. Much of SEAL's gain comes from traces that are no longer cut off; a
method that only shortens traces should show as such.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mi_lens.common.html import table
from mi_lens.common.intervals import estimate_difference, estimate_share
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

GAIN = 0.05  # The gain that the power is about, and the margin of "no change".
CHANGED = (0.05, 0.1, 0.2)  # Shares of changed answers: the fewest that give the gain, and more.

Verdict = Literal["better", "worse", "equivalent", "open"]


@dataclass(frozen=True)
class Arm:
    """The results of one condition, and the settings that may change a result.

    Attributes:
        name: Name of the condition.
        results: One result per problem and seed.
        setting: Model, engine, dtype, prompt style, budget, versions.
    """

    name: str
    results: tuple[Result, ...]
    setting: dict[str, Any]

    def __repr__(self) -> str:
        right = sum(result.correct for result in self.results)
        return f"Arm({self.name[:80]!r}: {right:,} of {len(self.results):,} right)"

    def by_problem(self) -> dict[tuple[str, str], list[Result]]:
        """The results of each problem, in the order of seeds; keys are (source, problem id)."""
        results: dict[tuple[str, str], list[Result]] = {}
        for result in sorted(self.results, key=lambda r: r.seed):
            results.setdefault(result.problem_key, []).append(result)
        return results

    def accuracy(self) -> Estimate:
        """Share of right answers, with a score interval over problems."""
        correct, seeds = _by_problem((r, float(r.correct)) for r in self.results)
        return estimate_share(correct, trials=seeds)

    def tokens(self) -> Estimate:
        """Tokens per trace, with a bootstrap interval over problems; no mean for text alone."""
        counted = ((r, float(r.tokens)) for r in self.results if r.tokens is not None)
        return estimate_mean(_by_problem(counted)[0])

    def passes(self) -> Estimate:
        """`Result.forward_passes` per trace, with a bootstrap interval over problems."""
        counted = ((r, r.forward_passes) for r in self.results if r.forward_passes is not None)
        return estimate_mean(_by_problem(counted)[0])

    def accuracy_within(self, budgets: Sequence[int]) -> list[float]:
        """Share of right answers within each token budget."""
        return [
            float(np.mean([r.correct and r.length <= budget for r in self.results]))
            for budget in budgets
        ]


@dataclass(frozen=True)
class Comparison:
    """A condition against another, on the same problems.

    Attributes:
        name: Name of the condition.
        against: Name of the other condition.
        problems: Number of problems.
        accuracy: Accuracy of the condition.
        difference: Difference in accuracy, paired by problem, with a score interval over problems;
            if no answer changed, the interval is the exact bound.
        equivalence: The same difference with its 90 % interval, which decides at a level of 5 %
            whether the difference lies within five points: both one-sided tests reject then.
        mended: Number of pairs (problem and seed) to which only the condition's answer is right.
        broken: Number of pairs to which only the other condition's answer is right.
        p_value: p-value of the exact McNemar test; with several seeds, of a test that flips the
            signs of the problems' mean differences.
        adjusted: The p-value after Holm's correction over all comparisons of `compare_all`.
        tokens: Difference in tokens, paired by problem, with a bootstrap interval over problems;
            without a mean if a trace is text alone.
        within: Budget to the difference in accuracy if both conditions must keep to it: an eighth,
            a quarter, half and all of the cap. Empty if a trace is text alone.
        split: Difference in accuracy among the pairs that were cut off under the other condition,
            among those that ended by themselves, and at each level.
        power: Share of problems whose answer changes to the probability of detecting a gain of
            five points with this number of problems. It is not computed at the share seen here,
            which is itself uncertain. Several seeds of a problem count once.
        needed: Number of problems, with one seed each, needed to detect the observed gain with
            probability .8 if as many answers change as here; None if there is no gain.
        settings_differ: Settings in which the two runs differ. Their effect cannot be separated
            from that of the condition.
    """

    name: str
    against: str
    problems: int
    accuracy: float
    difference: Estimate
    equivalence: Estimate
    mended: int
    broken: int
    p_value: float
    adjusted: float
    tokens: Estimate
    within: dict[int, float]
    split: dict[str, Estimate]
    power: dict[float, float]
    needed: int | None
    settings_differ: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """What the intervals say of the accuracy; no correction for several comparisons.

        "equivalent": the 90 % interval lies within five points of no difference. A difference may
        be there, but it is too small to matter. "better" or "worse": it is not equivalent, and the
        95 % interval excludes zero. "open": neither.
        """
        low, high = self.equivalence.low, self.equivalence.high
        if low is not None and high is not None and low > -GAIN and high < GAIN:
            return "equivalent"
        low, high = self.difference.low, self.difference.high
        if low is not None and low > 0:
            return "better"
        return "worse" if high is not None and high < 0 else "open"

    def __repr__(self) -> str:
        return (
            f"Comparison({self.name[:50]!r} against {self.against[:50]!r}: {self.problems} "
            f"problems, accuracy {100 * self.accuracy:.1f} %, "
            f"{self.difference.in_form('+.1f', 100.0)} points: {self.verdict}, "
            f"{self.mended} mended, "
            f"{self.broken} broken, adjusted p {self.adjusted:.2g})"
        )

    def _repr_html_(self) -> str:
        about: dict[str, Any] = {
            "problems": self.problems,
            "accuracy, %": 100 * self.accuracy,
            "difference, points": self.difference.in_form("+.1f", 100.0),
            "verdict": self.verdict,
            "mended, broken": f"{self.mended}, {self.broken}",
            "p, adjusted": f"{self.p_value:.2g}, {self.adjusted:.2g}",
            "tokens, difference": self.tokens.in_form("+.1f"),
            **{
                f"{name} [{part.n}]": part.in_form("+.1f", 100.0)
                for name, part in self.split.items()
            },
            **{f"within {b:,} tokens": f"{100 * d:+.1f}" for b, d in self.within.items()},
            **{f"power, {100 * c:g} % changed": power for c, power in self.power.items()},
            "problems needed": self.needed,
            "settings that differ": "; ".join(self.settings_differ) or "none",
        }
        return table(about, caption=f"{self.name} against {self.against}")


def compare(arm: Arm, against: Arm, *, seed: int = 0) -> Comparison:
    """Compares two conditions, which may come from different evaluations.

    Raises:
        ValueError: If they do not have the same problems and seeds.
    """
    pairs = _paired(arm, against)
    p_value = _p_value(arm, against, pairs, seed)
    mended, broken = (sum(_gain(pair) == sign for pair in pairs) for sign in (1.0, -1.0))
    changed = (mended + broken) / len(pairs)
    gain = (mended - broken) / len(pairs)
    fewer = [
        (a, float(a.tokens - b.tokens))
        for a, b in pairs
        if a.tokens is not None and b.tokens is not None
    ]
    budgets = _budgets(against) if len(fewer) == len(pairs) else []
    within = zip(arm.accuracy_within(budgets), against.accuracy_within(budgets), strict=True)
    return Comparison(
        name=arm.name,
        against=against.name,
        problems=len(arm.by_problem()),
        accuracy=float(np.mean([a.correct for a, _ in pairs])),
        difference=_difference(pairs),
        equivalence=_difference(pairs, confidence=0.9),
        mended=mended,
        broken=broken,
        p_value=p_value,
        adjusted=p_value,
        tokens=estimate_mean(_by_problem(fewer)[0] if budgets else [], seed=seed),
        within={b: x - y for b, (x, y) in zip(budgets, within, strict=True)},
        split=_split(pairs),
        power={share: paired_power(len(arm.by_problem()), GAIN, share) for share in CHANGED},
        needed=problems_needed(gain, changed) if gain else None,
        settings_differ=settings_that_differ(arm.setting, against.setting),
    )


def compare_all(arms: Iterable[Arm], against: Arm, *, seed: int = 0) -> list[Comparison]:
    """Compares each condition with the same other one, with Holm's correction."""
    comparisons = [compare(arm, against, seed=seed) for arm in arms]
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return [replace(c, adjusted=p) for c, p in zip(comparisons, adjusted, strict=True)]


def settings_that_differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings in which two runs differ, each as text with both values."""
    return tuple(f"{name}: {x!r} against {y!r}" for name, (x, y) in differences(a, b).items())


def _budgets(against: Arm) -> list[int]:
    longest = max(result.tokens or 0 for result in against.results)
    cap = int(against.setting.get("max_new_tokens", longest))
    return [max(1, cap // 8), max(1, cap // 4), max(1, cap // 2), cap]


Pair = tuple[Result, Result]  # The same problem and seed under both conditions.


def _paired(arm: Arm, against: Arm) -> list[Pair]:
    def key(result: Result) -> tuple[str, str, int]:
        return *result.problem_key, result.seed

    ours, theirs = ({key(r): r for r in side.results} for side in (arm, against))
    unpaired = ours.keys() ^ theirs.keys()
    if unpaired or len(ours) != len(arm.results):
        example = min(unpaired) if unpaired else "a repeated problem"
        raise ValueError(
            f"{arm.name!r} and {against.name!r} do not have the same problems and seeds: "
            f"{len(unpaired)} are in one only, for example {example}; compare runs on the same "
            "problems and seeds"
        )
    return [(ours[k], theirs[k]) for k in ours]


def _gain(pair: Pair) -> float:
    return float(pair[0].correct) - float(pair[1].correct)


def _p_value(arm: Arm, against: Arm, pairs: Sequence[Pair], seed: int) -> float:
    ours, theirs = arm.by_problem(), against.by_problem()
    if len(pairs) == len(ours):  # a single seed
        return mcnemar([b.correct for _, b in pairs], [a.correct for a, _ in pairs])
    differences = [
        float(np.mean([r.correct for r in ours[key]]) - np.mean([r.correct for r in theirs[key]]))
        for key in ours
    ]
    return sign_flip(differences, seed=seed)


def _by_problem(values: Iterable[tuple[Result, float]]) -> tuple[list[float], int]:
    """The mean of each problem's values, and the number of values of most; a result names it."""
    by_problem: dict[tuple[str, str], list[float]] = {}
    for result, value in values:
        by_problem.setdefault(result.problem_key, []).append(value)
    means = [float(np.mean(of_problem)) for of_problem in by_problem.values()]
    return means, max(map(len, by_problem.values()), default=1)


def _difference(pairs: Sequence[Pair], confidence: float = 0.95) -> Estimate:
    gains, seeds = _by_problem((pair[0], _gain(pair)) for pair in pairs)
    return estimate_difference(gains, trials=seeds, confidence=confidence)


def _split(pairs: Sequence[Pair]) -> dict[str, Estimate]:
    parts: dict[str, list[Pair]] = {
        "capped before": [pair for pair in pairs if pair[1].capped],
        "finished before": [pair for pair in pairs if not pair[1].capped],
    }
    for level in sorted({a.level for a, _ in pairs if a.level is not None}):
        parts[f"level {level}"] = [pair for pair in pairs if pair[0].level == level]
    return {name: _difference(part) for name, part in parts.items() if part}
