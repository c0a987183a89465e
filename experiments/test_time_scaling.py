"""Accuracy against tokens when thinking continues from thinking tokens (TTTS of paper 1).

python -m experiments.test_time_scaling
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.study import Study, baseline_traces, requested_traces, save
from experiments.summaries import affine, with_interval
from experiments.trained_length import within_trained_length
from mi_lens.common.intervals import estimate_difference, estimate_share
from mi_lens.common.statistics import Estimate, holm, sign_flip
from mi_lens.evaluation.comparison import GAIN
from mi_lens.report.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    curve,
    legend_above,
    style,
)

TTTS = ("TTTS, cycling", "TTTS, by word")
COLOURS = {
    "plain": BLUE,
    TTTS[0]: ORANGE,
    TTTS[1]: GREEN,
    "forcing x1": SKY,
    "forcing x2": PURPLE,
    "votes": GREY,
}


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        words: Thinking tokens from which thinking continues.
        budgets: Budgets in tokens per problem; the largest must be `max_new_tokens`.
        asking: Text that asks for the final answer where a trace is cut. The default is the pocket
            model's own ending; that of paper 1 is `mi_lens.evaluation.budget_curve.FINAL_ANSWER`.
        samples: Number of sampled traces per problem that vote.
        temperature: Temperature of the sampled traces.
    """

    limit: int = 100
    max_new_tokens: int = 768
    words: tuple[str, ...] = ("So", "Wait", "Hmm", "Alternatively")
    budgets: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768)
    asking: str = "\n</think>\n\nThe result is \\boxed{"
    samples: int = 5
    temperature: float = 0.8


@dataclass(frozen=True)
class Spent:
    """Outcome and tokens of one way to spend a budget; rows are budgets, columns problems.

    Attributes:
        correct: Share of the runs that are right.
        tokens: Mean tokens of the runs.
        runs: Number of runs.
    """

    correct: np.ndarray
    tokens: np.ndarray
    runs: int

    @classmethod
    def of(cls, curves: Sequence[mi_lens.BudgetCurve]) -> "Spent":
        """The mean over several curves."""
        correct = np.mean([np.array(curve.correct, dtype=float) for curve in curves], 0)
        tokens = np.mean([np.array(curve.tokens, dtype=float) for curve in curves], 0)
        return cls(correct, tokens, len(curves))


def main(config: Config) -> None:
    """Cuts the traces of every arm at each budget, and asks for the answer there."""
    if max(config.budgets) != config.max_new_tokens:
        raise ValueError(
            f"budgets={config.budgets} with max_new_tokens={config.max_new_tokens}: expected the "
            "largest budget there"
        )
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    plain = baseline_traces(config, model, problems)
    curves = {
        name: [
            mi_lens.budget_curve(
                model, traces, config.budgets, final=config.asking, batch_size=config.batch_size
            )
            for traces in runs
        ]
        for name, runs in traces_by_arm(config, model, problems, plain).items()
    }
    by_arm = {name: Spent.of(of_arm) for name, of_arm in curves.items()}
    samples = sample(config, model, problems)
    by_arm["votes"] = Spent.of([mi_lens.vote_curve(samples, config.budgets)])
    accuracy = {
        name: [estimate_share(row.tolist(), trials=spent.runs) for row in spent.correct]
        for name, spent in by_arm.items()
    }
    tokens = {name: spent.tokens.mean(1).tolist() for name, spent in by_arm.items()}
    more, p_values = more_than_plain(by_arm)
    words = {
        word: estimate_difference(
            (Spent.of([curve]).correct - by_arm["plain"].correct)[-1].tolist()
        )
        for word, curve in zip(config.words, curves[TTTS[1]], strict=True)
    }
    print_table(config, accuracy, tokens, words)
    last = {name: by_budget[-1] for name, by_budget in more.items()}
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(sorted(config.budgets), accuracy, tokens),
        finding(
            config,
            within_trained_length(config, max(config.budgets), model.tokenizer),
            accuracy["plain"],
            last,
            p_values,
            words,
            tokens,
            max(map(len, plain)),
        ),
        {
            "accuracy": accuracy,
            "tokens": tokens,
            "more than plain": more,
            "more than plain by word": words,
            "p-values at the largest budget": p_values,
            "longest plain trace": max(map(len, plain)),
        },
    )


def traces_by_arm(
    config: Config, model, problems: Sequence[mi_lens.Problem], plain: list[mi_lens.Trace]
) -> dict[str, list[list[mi_lens.Trace]]]:
    """The traces of every arm under the largest budget, one list per run of the arm."""
    continuing = {
        TTTS[0]: mi_lens.Continue(config.words),
        "forcing x1": mi_lens.Continue(["Wait"], 1),
        "forcing x2": mi_lens.Continue(["Wait"], 2),
    }
    conditions = [mi_lens.Condition((how,), name=name) for name, how in continuing.items()]
    requests = [
        mi_lens.Request(problem, condition, max_new_tokens=config.max_new_tokens)
        for condition in conditions
        for problem in problems
    ]
    traces = requested_traces(config, model, requests)
    starts = range(0, len(traces), len(problems))
    continued = [traces[start : start + len(problems)] for start in starts]
    by_word = [
        mi_lens.continue_traces(
            model, plain, word, config.max_new_tokens, batch_size=config.batch_size
        )
        for word in config.words
    ]
    return {
        "plain": [plain],
        TTTS[0]: [continued[0]],
        TTTS[1]: by_word,
        "forcing x1": [continued[1]],
        "forcing x2": [continued[2]],
    }


def more_than_plain(
    by_arm: Mapping[str, Spent],
) -> tuple[dict[str, list[Estimate]], dict[str, float]]:
    """Accuracy less that of plain thinking, and the p-values of TTTS at the largest budget."""
    plain = by_arm["plain"].correct
    more = {
        name: [
            estimate_difference(change.tolist(), trials=spent.runs)
            for change in spent.correct - plain
        ]
        for name, spent in by_arm.items()
        if name != "plain"
    }
    adjusted = holm([sign_flip((by_arm[name].correct - plain)[-1].tolist()) for name in TTTS])
    return more, dict(zip(TTTS, adjusted, strict=True))


def print_table(
    config: Config,
    accuracy: Mapping[str, Sequence[Estimate]],
    tokens: Mapping[str, Sequence[float]],
    words: Mapping[str, Estimate],
) -> None:
    """Prints accuracy and tokens of every arm, and the change by every word."""
    for name, estimates in accuracy.items():
        print(name)
        for budget, estimate, spent in zip(config.budgets, estimates, tokens[name], strict=True):
            print(f"  {budget}: {with_interval(estimate, 100)} for {spent:.0f} tokens")
    cells = [f"{word} {with_interval(change, 100)}" for word, change in words.items()]
    print("TTTS by word, less plain:", *cells)


def sample(config: Config, model, problems: Sequence[mi_lens.Problem]) -> list[list[mi_lens.Trace]]:
    """Several sampled traces of every problem."""
    sampled = mi_lens.Condition(sampling=mi_lens.Sampling(temperature=config.temperature))
    requests = [
        mi_lens.Request(problem, sampled, seed=seed, max_new_tokens=config.max_new_tokens)
        for problem in problems
        for seed in range(config.samples)
    ]
    traces = requested_traces(config, model, requests)
    return [traces[i : i + config.samples] for i in range(0, len(traces), config.samples)]


def draw(
    budgets: Sequence[int],
    accuracy: Mapping[str, Sequence[Estimate]],
    tokens: Mapping[str, Sequence[float]],
) -> Figure:
    """Accuracy against the budget, and against the tokens spent."""
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True)
        for name, estimates in accuracy.items():
            for axes, x in zip(panels, (budgets, tokens[name]), strict=True):
                scale = {"scale": 100, "marker": "s" if name == "votes" else "o"}
                curve(axes, x, estimates, COLOURS[name], name, **scale)
        panels[0].set_ylabel("accuracy (%, 95 %)")
        panels[0].set_xlabel("budget (tokens a problem)")
        panels[1].set_xlabel("spent (mean tokens a problem)")
        legend_above(figure, panels[0])
    return figure


def finding(
    config: Config,
    premises: tuple[Premise, ...],
    plain: Sequence[Estimate],
    more: Mapping[str, Estimate],
    p_values: Mapping[str, float],
    words: Mapping[str, Estimate],
    tokens: Mapping[str, Sequence[float]],
    longest: int,
) -> Finding:
    """Whether TTTS is more accurate than plain thinking at the largest budget."""
    best = max(more, key=lambda name: more[name].mean or 0.0)
    highest = [name for name in more if more[name].mean == more[best].mean]
    by_word = sorted(words, key=lambda word: words[word].mean or 0.0)
    ends = (
        f"{100 * (words[word].mean or 0.0):+.1f} ({word})" for word in (by_word[0], by_word[-1])
    )
    budget = max(config.budgets)
    return Finding(
        about="paper 1, figure of TTTS; s1's budget forcing",
        claim="Given many tokens, going on from thinking tokens (TTTS) beats plain thinking.",
        premises=premises,
        tests=tuple(
            ClaimTest(
                f"accuracy under {budget} tokens with {name} less that of plain thinking",
                affine(more[name], 100),
                100 * GAIN,
                "points",
            )
            for name in TTTS
        ),
        text=f"Under {budget} tokens plain thinking is right in {with_interval(plain[-1], 100)} % "
        f"of problems and spends {tokens['plain'][-1]:.0f}, {longest} in its longest trace; "
        f"against it TTTS by cycling changes {with_interval(more[TTTS[0]], 100)} points for "
        f"{tokens[TTTS[0]][-1]:.0f} tokens, by single words {with_interval(more[TTTS[1]], 100)} "
        f"for {tokens[TTTS[1]][-1]:.0f}, {' to '.join(ends)} (Holm p = {p_values[TTTS[0]]:.2g} and "
        f"{p_values[TTTS[1]]:.2g}). A loss past {longest} tokens is one beyond the length that the "
        f"model writes by itself; highest of {len(more)} ways, chosen after the fact, is "
        f"{' and '.join(highest)} with {with_interval(more[best], 100)} points against plain.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
