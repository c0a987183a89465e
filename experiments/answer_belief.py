"""When the answer that a trace gives can be had from it, and what comes before that.

python -m experiments.answer_belief
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.mi_study import fingerprint_of, saved_analysis
from experiments.study import THINKING_WORDS, Study, baseline_traces, save, settled_by_texts
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.statistics import estimate_mean, mean_interval
from mi_lens.information.per_trace.belief import Belief
from mi_lens.information.per_trace.comes_first import BeliefMark, ComesFirst
from mi_lens.information.per_trace.settled import SettledSummary
from mi_lens.models.pocket import BASES
from mi_lens.report.plots.style import COLOURS, GREY, PAGE, dots, legend_above, style

HALF = 0.5  # Share of the thinking after the answer is settled, of which the claim is about more.
ASKED_WELL = 0.8  # Share of traces that end as they answer when asked, for a question of use.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        base: A model to compare; None means the base of a pocket model, and none for others.
        every: Where traces are cut: at their boundaries, or each k-th step.
        asking: Text that asks for the answer, as the model itself would end. The default is that of
            the pocket models.
        words: Thinking words.
    """

    limit: int = 60
    base: str | None = None
    every: Literal["boundary"] | int = "boundary"
    asking: str = ".\n</think>\n\nThe result is \\boxed{"
    words: tuple[str, ...] = THINKING_WORDS


def main(config: Config) -> None:
    """Asks for the answer at the cuts of each trace, and looks for what stands before it."""
    model = mi_lens.load(config.model)
    hook_name = mi_lens.match_hook_names(model, "blocks.*.hook_resid_post")[-1]
    analysis = saved_analysis(config, hook_names=(hook_name,))
    beliefs = believed(config, model, analysis.traces)
    right = is_right(analysis.traces)
    groups = {
        name: [belief for belief, correct in zip(beliefs, right, strict=True) if correct == wanted]
        for name, wanted in (("right traces", 1), ("wrong traces", 0))
    }
    fingerprints = {config.model: fingerprint_of(analysis)}
    base_name = config.base or BASES.get(config.model)
    if base_name is not None:
        base = mi_lens.load(base_name)
        traces = baseline_traces(config, base, config.load_problems(), "baseline of the base")
        groups[base_name] = believed(config, base, traces)
        fingerprints[base_name] = mi_lens.model_fingerprint(base)
    groups = {name: group for name, group in groups.items() if any(b.final for b in group)}
    summaries = {name: mi_lens.settled_summary(group) for name, group in groups.items()}
    first = {mark: order(config, analysis, beliefs, mark) for mark in get_args(BeliefMark)}
    for name, summary in summaries.items():
        print(f"{name}: {summary.traces}, {with_interval(summary.share_after, digits=2)} after")
    save(
        config,
        fingerprints,
        draw(groups, summaries, first["jump"]),
        finding(config, beliefs, first["jump"]),
        {
            "settled": summaries,
            "settled above .5": {n: mi_lens.settled_summary(g, 0.5) for n, g in groups.items()},
            "comes first": first,
            "traces": {
                name: [numbers(belief) for belief in group] for name, group in groups.items()
            },
        },
    )


def believed(config: Config, model: Any, traces: Sequence[mi_lens.Trace]) -> list[Belief]:
    """The belief of every trace, as the study asks for it."""
    return mi_lens.answer_belief(
        model, traces, every=config.every, asking=config.asking, progress=True
    )


def order(
    config: Config,
    analysis: mi_lens.Analysis,
    beliefs: Sequence[Belief],
    mark: BeliefMark,
) -> dict[str, ComesFirst]:
    """Which marks come first in the analysed traces that give an answer, at the last hook name."""
    hook_name = analysis.hook_names[-1]
    tokenizer = analysis.config.load_tokenizer(config.model)
    words = mi_lens.TokenSet.of(tokenizer, config.words).ids
    of_trace = {belief.trace: belief for belief in beliefs}
    chosen = [trace for trace in analysis.analysed if of_trace[trace.id].final]
    marks = [
        mi_lens.marks_of(
            trace, analysis.measurement(trace, hook_name), of_trace[trace.id], words, mark=mark
        )
        for trace in chosen
    ]
    return mi_lens.what_comes_first(marks, [trace.problem.key for trace in chosen if trace.problem])


def numbers(belief: Belief) -> dict[str, Any]:
    """What is drawn of a trace."""
    final = belief.final
    return {
        "trace": belief.trace,
        "cuts": belief.cuts,
        "said": belief.said,
        "final": final and final.answer,
        "bits of the final answer": final and final.bits,
        "ranks of the final answer": final and final.ranks,
        "bits of the gold answer": belief.gold and belief.gold.bits,
        "settled": mi_lens.settled(belief),
    }


def draw(
    groups: Mapping[str, Sequence[Belief]],
    summaries: Mapping[str, SettledSummary],
    first: Mapping[str, ComesFirst],
) -> Figure:
    """Belief along the thinking, how much follows once it is settled, and what comes first."""
    x = np.linspace(0, 1, 50)
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.4), width_ratios=(1.3, 1, 1)
        )
        for colour, (name, group) in zip(COLOURS, groups.items(), strict=False):
            rows = [along(belief) for belief in group if belief.final and belief.cuts[-1]]
            values = np.stack(rows)
            left.plot(x, values.mean(0), color=colour, label=f"{name} ({len(rows)})")
            if len(rows) > 1:
                low, high = mean_interval(values)
                left.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        left.set_xlabel("part of the thinking")
        left.set_ylabel("P(final answer) if asked there")
        left.set_ylim(-0.02, 1.02)
        dots(middle, [s.share_after for s in summaries.values()], COLOURS[: len(summaries)])
        middle.set_yticks(range(len(summaries)), list(summaries))
        middle.set_ylim(len(summaries) - 0.5, -0.5)
        middle.set_xlim(left=0)
        middle.set_xlabel("share of the thinking\nafter it is settled (95 %)")
        dots(right, [kind.share for kind in first.values()], COLOURS[0])
        right.plot([kind.chance for kind in first.values()], range(len(first)), "|", color=GREY)
        right.set_yticks(range(len(first)), list(first))
        right.set_ylim(len(first) - 0.5, -0.5)
        right.set_xlabel("comes first, share of traces\n(grey: by chance)")
        legend_above(figure, left)
    return figure


def along(belief: Belief) -> np.ndarray:
    """The probability of the final answer at even parts of the thinking, as a staircase."""
    assert belief.final is not None
    steps = np.linspace(0, belief.cuts[-1], 50)
    return belief.final.probabilities[np.searchsorted(belief.cuts, steps, side="right") - 1]


def finding(config: Config, beliefs: Sequence[Belief], first: Mapping[str, ComesFirst]) -> Finding:
    """Whether more than half of the thinking follows once the final answer is settled."""
    summary = mi_lens.settled_summary(beliefs)
    asked = estimate_mean(
        [float(mi_lens.settled(belief).when != "never") for belief in beliefs if belief.final]
    )
    after, kinds = summary.share_after, dict(first)
    jump = kinds.pop("belief")
    others = ", ".join(
        f"{name} in {100 * (kind.share.mean or 0):.0f} % of traces ({100 * kind.chance:.0f} % by "
        "chance)"
        for name, kind in kinds.items()
    )
    return Finding(
        about="further reading: forced answers along a trace (arXiv 2603.05488, 2604.06613)",
        claim="Most of the thinking is written after the answer is settled.",
        premises=(
            *settled_by_texts(
                config,
                "The claim could not hold: the training texts give the result soon after the step "
                "that yields it, and a model of this size cannot know it before.",
            ),
            Premise(
                "Asked at the end of the thinking, the model gives the trace's own answer in "
                f"{with_interval(asked, 100)} % of traces.",
                "premise not met",
                asked,
                ASKED_WELL,
            ),
        ),
        tests=(
            ClaimTest(
                "share of the thinking after the final answer is settled, less one half",
                affine(after, 100, -100 * HALF),
                0.0,
                "points",
            ),
        ),
        text=f"Of {len(beliefs)} traces the final answer is settled from the start in "
        f"{summary.traces['from the start']} and later in {summary.traces['later']}, and "
        f"{with_interval(after, 100)} % of the thinking follows. Before all other marks come "
        f"{others}, and the largest rise of belief in {100 * (jump.share.mean or 0):.0f} % "
        f"({100 * jump.chance:.0f} % by chance).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
