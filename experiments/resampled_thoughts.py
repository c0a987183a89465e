"""Whether thoughts at MI peaks decide the answer: written anew, beside matched thoughts.

Raw peaks are so many that almost every thought of the pocket reasoner holds one, so that being at a
peak tells no thought from another. Therefore a thought is at a peak here if it holds one of the
trace's highest values.

python -m experiments.resampled_thoughts
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise, exactly
from experiments.mi_study import MIStudy
from experiments.study import THINKING_WORDS, block_outputs, sampled_traces, save
from experiments.summaries import raw_peaks, with_interval
from mi_lens.common.by_problem import mean_over_problems
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.importance import outcome_of
from mi_lens.evaluation.resample_thoughts import ResampledThought
from mi_lens.information.across_problems.true_thinking import TrueThinking
from mi_lens.report.plots.thoughts import resampled_figure
from mi_lens.traces.matched_thoughts import MatchedThoughts, PairedContrast
from mi_lens.traces.thoughts import THOUGHT_CLASSES

BITS = 0.1  # A difference in importance that would matter.
ALIKE = 0.25  # Standardised mean difference above which a match is no match.
DIFFERENT = 0.1  # Share of replacements that must say something else.
CONTRASTS = ("bits", "bits, content gone", "points of success")
DRAWN = {"written\nanew": CONTRASTS[0], "content\ngone": CONTRASTS[1]}


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run.

    Attributes:
        highest: Number of steps of highest MI in each trace, which are the peaks here.
        samples: Number of continuations with each thought, and of those without it.
        rounds: How many more times a thought is written anew where it comes back.
        caliper: The largest distance of a pair, in standard deviations.
        words: Thinking tokens.
        asking: Text that asks for the answer. The default is that of the pocket models.
    """

    limit: int = 30
    highest: int = 2
    samples: int = 8
    rounds: int = 1
    caliper: float = 1.0
    words: tuple[str, ...] = THINKING_WORDS
    asking: str = ".\n</think>\n\nThe result is \\boxed{"


def main(config: Config) -> None:
    """Writes thoughts at peaks of sampled traces anew, and thoughts that are like them."""
    model = mi_lens.load(config.model)
    traces = [
        trace
        for trace in sampled_traces(config, model, config.load_problems(), 1)
        if trace.stop_reason == "eos"
    ]
    mi, entropy = mi_and_entropy(config, model, traces)
    matched = mi_lens.matched_thoughts(
        model.tokenizer,
        traces,
        [mi_lens.find_peaks(of_trace, mi_lens.TopK(config.highest)).tolist() for of_trace in mi],
        entropy,
        config.words,
        caliper=config.caliper,
    )
    if not matched.pairs:
        raise ValueError(
            f"none of {len(matched.unmatched)} thoughts at peaks has a match among "
            f"{matched.others} others; give more problems (--limit) or a wider --caliper"
        )
    resampled = mi_lens.resample_thoughts(
        model,
        traces,
        matched.thoughts_of(traces),
        samples=config.samples,
        rounds=config.rounds,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        seed=1000,
        progress=True,
    )
    answering = [trace for trace in traces if outcome_of(trace).answer is not None]
    thinking = mi_lens.true_thinking(model, answering, asking=config.asking, seed=config.seed)
    contrasts = contrasts_of(matched, resampled)
    classes = by_class(resampled, thinking)
    report(contrasts, classes)
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        resampled_figure(
            {name: contrasts[key] for name, key in DRAWN.items()}, matched.balance, classes, ALIKE
        ),
        finding(config, contrasts, matched, resampled, classes),
        {
            **numbers(contrasts, matched, resampled, classes),
            "thoughts with a raw peak": with_raw_peaks(model.tokenizer, traces, mi),
        },
    )


def report(
    contrasts: Mapping[str, PairedContrast], classes: Mapping[str, tuple[Estimate, Estimate]]
) -> None:
    """Prints the contrasts, and both measures by class of thoughts."""
    for name, found in contrasts.items():
        print(
            f"{name:<20}{found.pairs:>4} pairs ({found.left_out} left out): at peaks "
            f"{with_interval(found.peaks, digits=2)}, at controls "
            f"{with_interval(found.controls, digits=2)}, difference "
            f"{with_interval(found.difference, digits=2)}"
        )
    for name, (score, bits) in classes.items():
        print(
            f"{name:<12}True-Thinking Score {with_interval(score, digits=2)}, "
            f"importance {with_interval(bits, digits=2)} bits"
        )


def numbers(
    contrasts: Mapping[str, PairedContrast],
    matched: MatchedThoughts,
    resampled: Sequence[ResampledThought],
    classes: Mapping[str, tuple[Estimate, Estimate]],
) -> dict[str, Any]:
    """What is drawn and stated, and what was found of every thought."""
    return {
        "contrasts": contrasts,
        "balance": matched.balance,
        "pairs": len(matched.pairs),
        "unmatched": len(matched.unmatched),
        "others": matched.others,
        "classes": {
            name: {"true-thinking score": score, "importance in bits": bits}
            for name, (score, bits) in classes.items()
        },
        "thoughts": [
            {
                "trace": one.trace,
                "step": one.thought.start,
                "class": one.thought.thought_class,
                "differing": one.differing,
                "gone": one.gone,
                "resilience": one.resilience,
                "importance": one.importance,
                "importance_gone": one.importance_gone,
            }
            for one in resampled
        ],
    }


def mi_and_entropy(
    config: Config, model, traces: Sequence[mi_lens.Trace]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """MI at the last block, and the entropy of every step, trace by trace."""
    last = block_outputs(model)[-1]
    problems = [trace.require_problem("whose answer is read") for trace in traces]
    states = mi_lens.capture(model, traces, [last])
    answers = mi_lens.answer_state(model, problems, [last], ending=config.ending)
    mi = mi_lens.mi_trajectories(states, answers, trace=traces)
    entropy = [
        mi_lens.next_token_uncertainty(model, trace, of_trace[last])["entropy"]
        for trace, of_trace in zip(traces, states, strict=True)
    ]
    return [of_trace[0].cpu().numpy() for of_trace in mi], entropy


def with_raw_peaks(
    tokenizer, traces: Sequence[mi_lens.Trace], mi: Sequence[np.ndarray]
) -> dict[str, int]:
    """How many thoughts hold a raw peak, of how many."""
    held = [
        any(thought.start <= peak < thought.stop for peak in raw_peaks(of_trace))
        for trace, of_trace in zip(traces, mi, strict=True)
        for thought in mi_lens.split_thoughts(tokenizer, trace)
    ]
    return {"with": sum(held), "of": len(held)}


def contrasts_of(
    matched: MatchedThoughts, resampled: Sequence[ResampledThought]
) -> dict[str, PairedContrast]:
    """Importance at peaks beside that at controls, by the kind of importance."""

    def values(measure, *, gone: bool = False, scale: float = 1.0) -> dict:
        of = {
            (one.trace, one.thought.start): one.importance_gone if gone else one.importance
            for one in resampled
        }
        return {
            key: None if found is None else scale * found.value(measure)
            for key, found in of.items()
        }

    kinds = (
        values("divergence"),
        values("divergence", gone=True),
        values("accuracy", scale=100),
    )
    return {name: matched.contrast(found) for name, found in zip(CONTRASTS, kinds, strict=True)}


def by_class(
    resampled: Sequence[ResampledThought], thinking: Sequence[TrueThinking]
) -> dict[str, tuple[Estimate, Estimate]]:
    """The True-Thinking Score of all thoughts, and the importance of those written anew."""
    scores = mi_lens.true_thinking_by_class(thinking)
    return {
        name: (
            scores[name],
            mi_lens.mean_importance([r for r in resampled if r.thought.thought_class == name]),
        )
        for name in THOUGHT_CLASSES
    }


def finding(
    config: Config,
    contrasts: Mapping[str, PairedContrast],
    matched: MatchedThoughts,
    resampled: Sequence[ResampledThought],
    classes: Mapping[str, tuple[Estimate, Estimate]],
) -> Finding:
    """Whether writing a thought anew changes the answers more if the thought holds a peak."""
    bits, gone, points = (contrasts[name] for name in CONTRASTS)
    different = mean_over_problems(
        (one.problem, one.differing / len(one.replacements)) for one in resampled
    )
    after = [abs(b.after) for b in matched.balance.values() if b.after is not None]
    worst = max(after, default=float("inf"))
    whole = mi_lens.mean_importance(resampled)
    execution, reflection = classes["execution"], classes["reflection"]
    return Finding(
        about="paper 1: peaks are crucial steps (after Thought Anchors, arXiv 2506.19143)",
        claim="Thoughts at the highest MI peaks decide the answer more than others.",
        premises=(
            Premise(
                "Written anew, a thought says something else in "
                f"{with_interval(different, 100)} % of continuations.",
                "premise not met",
                different,
                DIFFERENT,
            ),
            Premise(
                f"Thoughts matter: on average by {with_interval(whole, digits=2)} bits.",
                "premise not met",
                whole,
            ),
            Premise(
                f"Peaks and controls are alike: the largest standardised difference is "
                f"{worst:.2f}, and {ALIKE:g} or less is asked.",
                "premise not met",
                exactly(ALIKE - worst),
            ),
        ),
        tests=(
            ClaimTest("importance at peaks beyond controls", bits.difference, BITS, "bits"),
            ClaimTest("the same, content gone", gone.difference, BITS, "bits"),
        ),
        text=f"Writing a thought anew changes the answers by {with_interval(bits.peaks, digits=2)} "
        f"bits beyond chance at peaks and by {with_interval(bits.controls, digits=2)} at controls, "
        f"which is {with_interval(bits.difference, digits=2)} more, and "
        f"{with_interval(gone.difference, digits=2)} more where the content stays away "
        f"({bits.pairs} and {gone.pairs} pairs, {len(matched.unmatched)} thoughts at peaks without "
        f"a match, {config.samples} continuations on each side); in points of success the "
        f"difference is {with_interval(points.difference)}. True-Thinking Scores are "
        f"{with_interval(execution[0], digits=2)} for execution and "
        f"{with_interval(reflection[0], digits=2)} for reflection, importance is "
        f"{with_interval(execution[1], digits=2)} and {with_interval(reflection[1], digits=2)} "
        "bits: a forced answer does not count what a thought gives to later thoughts.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
