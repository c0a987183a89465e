"""Accuracy against tokens spent: thinking that goes on from thinking tokens (paper 1).

python -m experiments.test_time_scaling
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import (
    Finding,
    Study,
    Verdict,
    baseline_traces,
    said,
    save,
    side,
    traces,
)
from mi_lens.common.statistics import Estimate, estimate_mean, holm, sign_flip
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
        words: Thinking tokens from which thinking goes on.
        budgets: Tokens a problem; traces are made under the largest, `max_new_tokens`.
        asking: Put at a cut, where a final answer is asked for: the pocket model's own way to end.
            Paper 1's is `mi_lens.evaluation.budget_curve.FINAL_ANSWER`.
        samples: Traces a problem that vote.
        temperature: Of those.
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
    """A way to spend a budget: outcome and tokens, a row a budget, a column a problem."""

    correct: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, curves: Sequence[mi_lens.BudgetCurve]) -> "Spent":
        """The mean of several ways."""
        correct = np.mean([np.array(one.correct, dtype=float) for one in curves], 0)
        return cls(correct, np.mean([np.array(one.tokens, dtype=float) for one in curves], 0))


def main(config: Config) -> None:
    """Makes every arm's traces under the largest budget, cuts them at each and asks."""
    if max(config.budgets) != config.max_new_tokens:
        raise ValueError(
            f"budgets={config.budgets} with max_new_tokens={config.max_new_tokens}: expected the "
            "largest budget there"
        )
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    plain = baseline_traces(config, model, problems)
    arms = {
        "plain": [plain],
        TTTS[0]: [go_on(config, model, problems, mi_lens.Continue(config.words))],
        TTTS[1]: [
            mi_lens.continue_traces(
                model, plain, word, config.max_new_tokens, batch_size=config.batch_size
            )
            for word in config.words
        ],
        "forcing x1": [go_on(config, model, problems, mi_lens.Continue(["Wait"], 1))],
        "forcing x2": [go_on(config, model, problems, mi_lens.Continue(["Wait"], 2))],
    }
    curves = {
        name: [
            mi_lens.budget_curve(
                model, some, config.budgets, final=config.asking, batch_size=config.batch_size
            )
            for some in made
        ]
        for name, made in arms.items()
    }
    found = {name: Spent.of(several) for name, several in curves.items()}
    found["votes"] = Spent.of([mi_lens.vote_curve(sample(config, model, problems), config.budgets)])
    accuracy = {
        name: [estimate_mean(r.tolist()) for r in one.correct] for name, one in found.items()
    }
    tokens = {name: one.tokens.mean(1).tolist() for name, one in found.items()}
    plainly = found["plain"].correct
    more = {
        name: [estimate_mean(change.tolist()) for change in one.correct - plainly]
        for name, one in found.items()
        if name != "plain"
    }
    last = {name: some[-1] for name, some in more.items()}
    tested = holm([sign_flip((found[name].correct[-1] - plainly[-1]).tolist()) for name in TTTS])
    p_values: dict[str, float] = dict(zip(TTTS, tested, strict=True))
    words = {
        word: estimate_mean((Spent.of([one]).correct[-1] - plainly[-1]).tolist())
        for word, one in zip(config.words, curves[TTTS[1]], strict=True)
    }
    for name, estimates in accuracy.items():
        cells = zip(config.budgets, estimates, tokens[name], strict=True)
        print(name, *(f"  {b}: {said(e, 100)} for {t:.0f} tokens" for b, e, t in cells), sep="\n")
    print("TTTS by word, less plain:", *(f"{w} {said(e, 100)}" for w, e in words.items()))
    save(
        config, {config.model: mi_lens.model_fingerprint(model)},
        draw(sorted(config.budgets), accuracy, tokens),
        finding(config, accuracy["plain"], last, p_values, words, tokens, max(map(len, plain))),
        {
            "accuracy": accuracy, "tokens": tokens, "more than plain": more,
            "more than plain by word": words, "p-values at the largest budget": p_values,
            "longest plain trace": max(map(len, plain)),
        },
    )  # fmt: skip


def go_on(
    config: Config, model, problems: Sequence[mi_lens.Problem], how: mi_lens.Continue
) -> list[mi_lens.Trace]:
    """A greedy trace of every problem that goes on where it would end."""
    condition = mi_lens.Condition((how,))
    return traces(config, model, [
        mi_lens.Request(one, condition, max_new_tokens=config.max_new_tokens) for one in problems
    ])  # fmt: skip


def sample(config: Config, model, problems: Sequence[mi_lens.Problem]) -> list[list[mi_lens.Trace]]:
    """Several sampled traces of every problem."""
    warm = mi_lens.Condition(sampling=mi_lens.Sampling(temperature=config.temperature))
    drawn = traces(config, model, [
        mi_lens.Request(one, warm, seed=seed, max_new_tokens=config.max_new_tokens)
        for one in problems for seed in range(config.samples)
    ])  # fmt: skip
    return [drawn[i : i + config.samples] for i in range(0, len(drawn), config.samples)]


def draw(
    budgets: Sequence[int],
    accuracy: Mapping[str, Sequence[Estimate]],
    tokens: Mapping[str, Sequence[float]],
) -> Figure:
    """Accuracy against what is allowed, and against what is spent of it."""
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
    plain: Sequence[Estimate],
    more: Mapping[str, Estimate],
    p_values: Mapping[str, float],
    words: Mapping[str, Estimate],
    tokens: Mapping[str, Sequence[float]],
    longest: int,
) -> Finding:
    """Whether thinking on from thinking tokens is above plain thinking at the largest budget."""
    signs = [side(more[name]) * (p_values[name] <= 0.05) for name in TTTS]
    verdict: Verdict = "against" if min(signs) < 0 else "open"
    if max(signs) > 0:
        verdict = "with" if min(signs) > 0 else "in part"
    best = max(more, key=lambda name: more[name].mean or 0.0)
    highest = [name for name in more if more[name].mean == more[best].mean]
    by_word = sorted(words, key=lambda word: words[word].mean or 0.0)
    ends = (f"{100 * (words[w].mean or 0.0):+.1f} ({w})" for w in (by_word[0], by_word[-1]))
    budget = max(config.budgets)
    return Finding(
        about="paper 1, figure of TTTS; s1's budget forcing",
        claim="Given many tokens, going on from thinking tokens (TTTS) beats plain thinking.",
        verdict=verdict,
        text=f"Under {budget} tokens plain thinking is right in {said(plain[-1], 100)} % of "
        f"problems and spends {tokens['plain'][-1]:.0f}, {longest} in its longest trace; against "
        f"it TTTS by cycling changes {said(more[TTTS[0]], 100)} points for "
        f"{tokens[TTTS[0]][-1]:.0f} tokens, by single words {said(more[TTTS[1]], 100)} for "
        f"{tokens[TTTS[1]][-1]:.0f}, {' to '.join(ends)} (Holm p = "
        f"{p_values[TTTS[0]]:.2g} and {p_values[TTTS[1]]:.2g}). A loss past {longest} tokens is "
        f"one beyond the length that the model writes by itself; highest of "
        f"{len(more)} ways, chosen after the fact, is {' and '.join(highest)} with "
        f"{said(more[best], 100)} points against plain.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
