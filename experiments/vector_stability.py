"""How stable SEAL's vector is: cosines between vectors of disjoint sets of traces.

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
from experiments.labels import ClaimTest, Finding
from experiments.steering import SteeringStudy, vector_traces
from experiments.study import save
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.intervals import estimate_unpaired_difference
from mi_lens.common.statistics import Estimate
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, SKY, curve, dots, style
from mi_lens.steering.seal import states_of_thoughts


@dataclass(frozen=True, kw_only=True)
class Config(SteeringStudy):
    """What to run. Only the problems that vectors are made from are used.

    Attributes:
        sizes: Sizes of the halves, in problems; sizes that do not fit are left out.
        splits: Number of random pairs of disjoint halves of each size.
    """

    sizes: tuple[int, ...] = (6, 12, 25, 50, 100, 200, 400, 800)
    splits: int = 200

    def scope(self) -> str:
        """The number of problems that vectors are made from."""
        return f"{self.vector_limit or 3 * self.limit} problems of the train split"


def main(config: Config) -> None:
    """Reads the states of all thoughts, and compares the vectors of parts of them."""
    model = mi_lens.load(config.model)
    hook_name = config.hook_name(model)
    traces = vector_traces(config, model, ())
    rng = np.random.default_rng(config.seed)
    by_trace = list(states_of_thoughts(model, traces, [hook_name]))
    classes = [thought.thought_class for trace in by_trace for thought in trace.thoughts]
    thoughts = Thoughts(
        torch.cat([trace.states[hook_name] for trace in by_trace]).double().numpy(),
        np.array([thought_class == "execution" for thought_class in classes]),
        np.repeat(np.arange(len(by_trace)), [len(trace.thoughts) for trace in by_trace]),
    )
    by_id = {trace.problem.id: trace for trace in traces if trace.problem}
    right = is_right([by_id[trace.problem.id] for trace in by_trace]) > 0
    sizes = [size for size in config.sizes if 2 * size <= len(by_trace)]
    if not sizes:
        raise ValueError(
            f"{len(by_trace)} traces with thoughts and sizes={config.sizes}: expected a size of at "
            "most half of them"
        )
    by_size = {
        name: {
            size: spread([thoughts.halves(size, rng, shuffle) for _ in range(config.splits)])
            for size in sizes
        }
        for name, shuffle in SHUFFLES.items()
    }
    split = by_answer(thoughts, right, config.splits, rng)
    for size in sizes:
        cells = [
            f"{name} {with_interval(cosines[size], digits=3)}" for name, cosines in by_size.items()
        ]
        print(f"{size:>5} problems a half: {', '.join(cells)}")
    for name, estimate in split.items():
        print(f"{name} ({estimate.n} problems): {with_interval(estimate, digits=3)}")
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(by_size, split),
        finding(by_size, split, len(by_trace), int((~right).sum())),
        {
            "hook": hook_name,
            "halves": by_size,
            "right and wrong": split,
            "norm": float(np.linalg.norm(thoughts.vector(np.ones(len(by_trace))))),
            "problems": len(by_trace),
            "wrong": int((~right).sum()),
        },
    )


SAME = 0.9  # Vectors with a cosine above this count as the same.
WITHIN, OVERALL = "shuffled within traces", "shuffled over all"


@dataclass(frozen=True)
class Thoughts:
    """The state of every thought, whether it is execution, and the number of its trace."""

    states: np.ndarray
    execution: np.ndarray
    trace: np.ndarray

    def vector(self, weights: np.ndarray) -> np.ndarray:
        """SEAL's vector S with one weight per trace; NaN where a class has no thoughts."""
        by_thought = weights[self.trace]
        means = []
        for in_class in (self.execution, ~self.execution):
            class_weights = by_thought * in_class
            with np.errstate(invalid="ignore"):
                means.append(class_weights @ self.states / class_weights.sum())
        return means[0] - means[1]

    def halves(
        self, size: int, rng: np.random.Generator, shuffle: Callable[..., np.ndarray]
    ) -> float:
        """Cosine of the vectors of two disjoint random sets of traces, with shuffled labels."""
        labelled = replace(self, execution=shuffle(self, rng))
        order = rng.permutation(int(self.trace.max()) + 1)
        first, second = (
            labelled.vector(np.isin(np.sort(order), half) * 1.0)
            for half in (order[:size], order[size : 2 * size])
        )
        return cosine(first, second)


def shuffled_within_traces(thoughts: Thoughts, rng: np.random.Generator) -> np.ndarray:
    """The labels, shuffled among the thoughts of each trace."""
    order = np.lexsort((rng.random(len(thoughts.trace)), thoughts.trace))
    return thoughts.execution[order]


SHUFFLES: dict[str, Callable[[Thoughts, np.random.Generator], np.ndarray]] = {
    "classes": lambda thoughts, rng: thoughts.execution,
    WITHIN: shuffled_within_traces,
    OVERALL: lambda thoughts, rng: rng.permutation(thoughts.execution),
}


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two vectors."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def by_answer(
    thoughts: Thoughts, right: np.ndarray, draws: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Cosines of vectors of right and wrong traces, and of two sets of right traces.

    All sets have as many traces. The second set of a pair is drawn with replacement, because there
    are no further wrong traces.
    """
    wrong_rows, right_rows = np.flatnonzero(~right), np.flatnonzero(right)
    n = min(len(wrong_rows), len(right_rows) // 2)
    cosines: dict[str, list[float]] = {"right, wrong": [], "right, right": []}

    def vector(rows: np.ndarray) -> np.ndarray:
        return thoughts.vector(np.bincount(rows, minlength=len(right)).astype(float))

    for _ in range(draws if n else 0):
        order = rng.permutation(right_rows)
        first = vector(order[:n])
        for name, rows in (("right, wrong", wrong_rows), ("right, right", order[n : 2 * n])):
            cosines[name].append(cosine(first, vector(rng.choice(rows, n))))
    return {name: spread(values, n) for name, values in cosines.items()}


def spread(values: Sequence[float], n: int | None = None) -> Estimate:
    """Mean and central 95 % of draws, without draws that define no vector."""
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return Estimate(None, None, None, 0)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(float(finite.mean()), float(low), float(high), len(finite) if n is None else n)


def draw(by_size: Mapping[str, Mapping[int, Estimate]], split: Mapping[str, Estimate]) -> Figure:
    """Cosines by the size of the halves, and by whether the traces are right."""
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.5), width_ratios=(3, 2))
        for (name, cosines), colour in zip(by_size.items(), (BLUE, SKY, GREY), strict=True):
            x = [float(size) for size in cosines]
            curve(left, x, list(cosines.values()), colour, name, marker="o")
        left.set_xscale("log")
        sizes = list(next(iter(by_size.values())))
        left.set_xticks(sizes, [str(size) for size in sizes])
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


def known(value: float | None, default: float) -> float:
    """A number, or the default where it is undefined."""
    return default if value is None else value


def finding(
    by_size: Mapping[str, Mapping[int, Estimate]],
    split: Mapping[str, Estimate],
    problems: int,
    wrong: int,
) -> Finding:
    """Whether other problems, and traces with other outcomes, give the same vector."""
    most = max(by_size["classes"])
    whole, chance, null = (by_size[name][most] for name in ("classes", WITHIN, OVERALL))
    across, within = split["right, wrong"], split["right, right"]
    return Finding(
        about="paper 2, the vector; criticism: the problems behind the vector were not described",
        claim="The vector is the model's: other problems of the task give the same one.",
        tests=tuple(
            ClaimTest(name, effect, 0.0, "of the cosine")
            for name, effect in (
                (f"cosine of vectors of other problems, less {SAME:g}", affine(whole, 1, -SAME)),
                (
                    "cosine of vectors of other problems, less that with labels shuffled within "
                    "traces",
                    estimate_unpaired_difference(whole, chance),
                ),
                (
                    f"cosine of vectors of right and wrong traces, less {SAME:g}",
                    affine(across, 1, -SAME),
                ),
            )
        ),
        text=f"Vectors of {most} and {most} other problems have a cosine of "
        f"{with_interval(whole, digits=3)}, with labels shuffled within traces, which leaves how "
        f"many of a class each has, {with_interval(chance, digits=2)}, over all "
        f"{with_interval(null, digits=2)} (intervals over splits of {problems} problems). "
        + (
            f"Vectors of {across.n} right and as many wrong traces have "
            f"{with_interval(across, digits=2)}, of right traces alone "
            f"{with_interval(within, digits=2)}; {wrong} traces are wrong, and the same vector "
            f"means cosines above {SAME:g} throughout."
            if across.n
            else f"With {wrong} wrong traces there is no vector of such to compare."
        ),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
