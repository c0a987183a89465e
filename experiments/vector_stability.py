"""How sure SEAL's vector is: cosines between vectors of disjoint problems, and of right and wrong.

python -m experiments.vector_stability
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.steering import SteeringStudy, vector_traces
from experiments.study import Finding, Verdict, is_right, said, save
from mi_lens.common.statistics import Estimate
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, SKY, curve, dots, style
from mi_lens.steering.seal import states_of_thoughts


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run; only the problems that vectors are made from are used.

    Attributes:
        sizes: Of the halves, in problems; those that fit.
        splits: Draws of two disjoint halves of each size.
    """

    sizes: tuple[int, ...] = (6, 12, 25, 50, 100, 200, 400, 800)
    splits: int = 200

    def scope(self) -> str:
        """See `Study.scope`."""
        return f"{self.vector_limit or 3 * self.limit} problems of the train split"


def main(config: Config) -> None:
    """Reads states once; all vectors are means of some of them."""
    model = mi_lens.load(config.model)
    hook_name = config.hook_name(model)
    traces = vector_traces(config, model, ())
    rng = np.random.default_rng(config.seed)
    read = list(states_of_thoughts(model, traces, [hook_name]))
    thoughts = Thoughts(
        torch.cat([one.states[hook_name] for one in read]).double().numpy(),
        np.array([t.thought_class == "execution" for one in read for t in one.thoughts]),
        np.repeat(np.arange(len(read)), [len(one.thoughts) for one in read]),
    )
    by_id = {t.problem.id: t for t in traces if t.problem}
    right = is_right([by_id[one.problem.id] for one in read]) > 0
    sizes = [n for n in config.sizes if 2 * n <= len(read)]
    if not sizes:
        raise ValueError(
            f"{len(read)} traces with thoughts and sizes={config.sizes}: expected a size of at "
            "most half of them"
        )
    by_size = {
        name: {n: spread([thoughts.halves(n, rng, shuffle) for _ in range(config.splits)])
               for n in sizes}
        for name, shuffle in SHUFFLES.items()
    }  # fmt: skip
    split = by_answer(thoughts, right, config.splits, rng)
    for n in sizes:
        shown = [f"{name} {said(some[n], digits=3)}" for name, some in by_size.items()]
        print(f"{n:>5} problems a half: {', '.join(shown)}")
    for name, one in split.items():
        print(f"{name} ({one.n} problems): {said(one, digits=3)}")
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(by_size, split),
        finding(by_size, split, len(read), int((~right).sum())),
        {"hook": hook_name, "halves": by_size, "right and wrong": split,
         "norm": float(np.linalg.norm(thoughts.vector(np.ones(len(read))))),
         "problems": len(read),
         "wrong": int((~right).sum())},
    )  # fmt: skip


SAME = 0.9  # The cosine above which two vectors are called the same.
WITHIN, OVERALL = "shuffled within traces", "shuffled over all"


@dataclass(frozen=True)
class Thoughts:
    """The states of all thoughts, whether each is execution, and the number of its trace."""

    states: np.ndarray
    execution: np.ndarray
    trace: np.ndarray

    def vector(self, weights: np.ndarray) -> np.ndarray:
        """SEAL's S with a weight a trace; not a number where a class has no thoughts."""
        each = weights[self.trace]
        means = []
        for kind in (self.execution, ~self.execution):
            w = each * kind
            with np.errstate(invalid="ignore"):
                means.append(w @ self.states / w.sum())
        return means[0] - means[1]

    def halves(self, n: int, rng: np.random.Generator, shuffle: Callable[..., np.ndarray]) -> float:
        """Cosine of the vectors of n traces and of n others, labels shuffled anew."""
        labelled = replace(self, execution=shuffle(self, rng))
        order = rng.permutation(int(self.trace.max()) + 1)
        return cosine(*(labelled.vector(np.isin(np.sort(order), some) * 1.0)
                        for some in (order[:n], order[n : 2 * n])))  # fmt: skip


SHUFFLES: dict[str, Callable[[Thoughts, np.random.Generator], np.ndarray]] = {
    "classes": lambda some, rng: some.execution,
    WITHIN: lambda some, rng: some.execution[np.lexsort((rng.random(len(some.trace)), some.trace))],
    OVERALL: lambda some, rng: rng.permutation(some.execution),
}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def by_answer(
    thoughts: Thoughts, right: np.ndarray, draws: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Vectors of right and of wrong traces, beside two of right ones; of equal numbers.

    The second of each pair is drawn with replacement, as there are no more wrong ones.
    """
    wrong_rows, right_rows = np.flatnonzero(~right), np.flatnonzero(right)
    n = min(len(wrong_rows), len(right_rows) // 2)
    found: dict[str, list[float]] = {"right, wrong": [], "right, right": []}

    def vector(rows: np.ndarray) -> np.ndarray:
        return thoughts.vector(np.bincount(rows, minlength=len(right)).astype(float))

    for _ in range(draws if n else 0):
        order = rng.permutation(right_rows)
        first = vector(order[:n])
        for name, rows in (("right, wrong", wrong_rows), ("right, right", order[n : 2 * n])):
            found[name].append(cosine(first, vector(rng.choice(rows, n))))
    return {name: spread(some, n) for name, some in found.items()}


def spread(values: Sequence[float], n: int | None = None) -> Estimate:
    """Mean and central 95 % of draws; those that define no vector are left out."""
    kept = np.array([one for one in values if np.isfinite(one)])
    if not len(kept):
        return Estimate(None, None, None, 0)
    low, high = np.quantile(kept, [0.025, 0.975])
    return Estimate(float(kept.mean()), float(low), float(high), len(kept) if n is None else n)


def draw(by_size: Mapping[str, Mapping[int, Estimate]], split: Mapping[str, Estimate]) -> Figure:
    """Cosines by number of problems, and by whether the traces are right."""
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5), width_ratios=(3, 2))
        for (name, found), colour in zip(by_size.items(), (BLUE, SKY, GREY), strict=True):
            curve(left, [float(n) for n in found], list(found.values()), colour, name, marker="o")
        left.set_xscale("log")
        sizes = list(next(iter(by_size.values())))
        left.set_xticks(sizes, [str(n) for n in sizes])
        left.minorticks_off()
        left.axhline(0, color="black", linewidth=0.5)
        left.set_ylim(-1.05, 1.05)
        left.set_xlabel("problems in each of two disjoint halves")
        left.set_ylabel("cosine of their vectors\n(95 % of splits)")
        left.legend(loc="lower right")
        dots(right, list(split.values()), [ORANGE, GREEN])
        right.set_yticks(range(len(split)), list(split))
        right.set_ylim(len(split) - 0.5, -0.5)
        right.set_xlabel(
            f"cosine of vectors of\n{next(iter(split.values())).n} traces each (95 % of draws)"
        )
    return figure


def known(value: float | None, otherwise: float) -> float:
    """A number, or another where there is none."""
    return otherwise if value is None else value


def finding(
    by_size: Mapping[str, Mapping[int, Estimate]], split: Mapping[str, Estimate],
    problems: int, wrong: int,
) -> Finding:  # fmt: skip
    """Whether other problems, and other outcomes, would have given the same vector."""
    most = max(by_size["classes"])
    whole, chance, null = (by_size[name][most] for name in ("classes", WITHIN, OVERALL))
    across, within = split["right, wrong"], split["right, right"]
    stable = known(whole.low, -1.0) > max(SAME, known(chance.high, 1.0))
    # Where few traces are wrong, a wide interval is no sign that theirs is the same vector.
    alike = known(across.low, -1.0) > SAME and known(across.mean, -1.0) >= known(within.low, 1.0)
    verdict: Verdict = "open"
    if stable:
        verdict = "with" if alike else "in part"
    elif known(whole.high, 1.0) < SAME:
        verdict = "against"
    return Finding(
        about="paper 2, the vector; criticism: the problems behind the vector were not described",
        claim="The vector is the model's: other problems of the task give the same one.",
        verdict=verdict,
        text=f"Vectors of {most} and {most} other problems have a cosine of "
        f"{said(whole, digits=3)}, with labels shuffled within traces, which leaves how many of a "
        f"class each has, {said(chance, digits=2)}, over all {said(null, digits=2)} (intervals "
        f"over splits of {problems} problems). "
        + (
            f"Vectors of {across.n} right and as many wrong traces have {said(across, digits=2)}, "
            f"of right traces alone {said(within, digits=2)}; {wrong} traces are wrong, and the "
            f"same vector means cosines above {SAME:g} throughout."
            if across.n
            else f"With {wrong} wrong traces there is no vector of such to compare."
        ),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
