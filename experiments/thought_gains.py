"""How much thoughts of each class add to the probability of the gold answer.

python -m experiments.thought_gains
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.study import Study, sampled_traces, save, settled_by_texts
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.intervals import estimate_unpaired_difference
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.across_problems.thought_gains import (
    ThoughtGains,
    gains_by_class,
    thought_gains,
)
from mi_lens.report.plots.thoughts import gains_figure
from mi_lens.traces.thoughts import THOUGHT_CLASSES

FEW_BITS = 0.1  # Bits of the answer a thought that would matter.
LIKELY = 0.9  # Above this probability of the answer a thought can hardly add to it.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        asking: Text that asks for the answer, as the model itself would end. The default is that of
            the pocket models.
    """

    limit: int = 80
    asking: str = ".\n</think>\n\nThe result is \\boxed{"


def main(config: Config) -> None:
    """Asks for the answer after every thought of one sampled trace per problem."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), 1)
    by_trace = thought_gains(model, traces, asking=config.asking, progress=True)
    right = {trace.id for trace, correct in zip(traces, is_right(traces), strict=True) if correct}
    groups = {
        "right traces": [trace for trace in by_trace if trace.trace in right],
        "wrong traces": [trace for trace in by_trace if trace.trace not in right],
    }
    groups = {name: group for name, group in groups.items() if group}
    if "right traces" not in groups:
        raise ValueError(
            f"none of {len(traces)} traces is right and has thoughts: no thought adds to a right "
            "answer; give more problems (--limit) or easier ones"
        )
    for name, group in groups.items():
        for thought_class, gains in gains_by_class(group).items():
            print(
                f"{name}, {thought_class:<12}{gains.thoughts:>4} thoughts: "
                f"{with_interval(gains.bits)} bits, probability "
                f"{with_interval(gains.probability, digits=2)}"
            )
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        gains_figure(groups),
        finding(config, groups),
        {name: numbers(group) for name, group in groups.items()},
    )


def numbers(group: Sequence[ThoughtGains]) -> dict[str, Any]:
    """Gains by class, changes by where thoughts begin, and the bits at every cut of a trace."""
    traces = [
        {
            "trace": trace.trace,
            "cuts": trace.cuts,
            "bits": trace.bits,
            "classes": [thought.thought_class for thought in trace.thoughts],
        }
        for trace in group
    ]
    changes = {
        "likely": other_thoughts_change(group, likely=True),
        "not yet": other_thoughts_change(group, likely=False),
    }
    return {"classes": gains_by_class(group), "other thoughts begun": changes, "traces": traces}


def other_thoughts_change(group: Sequence[ThoughtGains], *, likely: bool) -> Estimate:
    """Change of the gold answer's probability by reflections and transitions.

    Args:
        group: Traces, one per problem.
        likely: Whether to take thoughts that begin where that probability is above `LIKELY`, or
            those that begin below.
    """
    by_trace = []
    for trace in group:
        steps = zip(trace.thoughts, pairwise(2 ** -np.array(trace.bits[1:])), strict=True)
        changes = [
            after - before
            for thought, (before, after) in steps
            if thought.thought_class != "execution" and (before > LIKELY) == likely
        ]
        if changes:
            by_trace.append(float(np.mean(changes)))
    return estimate_mean(by_trace)


def finding(config: Config, groups: Mapping[str, Sequence[ThoughtGains]]) -> Finding:
    """Whether execution gains bits of the answer in right traces, and other thoughts less.

    The tests are on bits, because a probability near 1 can only fall. They count wrong traces too,
    as a reflection can mend something there.
    """
    gains = {name: gains_by_class(group) for name, group in groups.items()}
    useful, *others = (gains["right traces"][name].bits for name in THOUGHT_CLASSES)
    elsewhere = gains.get("wrong traces", {})
    effects = {"bits by execution in right traces": useful}
    for name, bits in zip(THOUGHT_CLASSES[1:], others, strict=True):
        if bits.n:
            effects[f"bits by execution less those by {name} in right traces"] = (
                estimate_unpaired_difference(useful, bits)
            )
    effects |= {
        f"{FEW_BITS:g} bits less those by {name} in wrong traces": affine(
            of_class.bits, -1, FEW_BITS
        )
        for name, of_class in elsewhere.items()
        if name != "execution" and of_class.thoughts
    }
    in_bits = "; ".join(
        f"in {len(groups[name])} {name} "
        + ", ".join(
            f"{kind} {with_interval(of_class.bits)} ({of_class.thoughts})"
            for kind, of_class in by_class.items()
            if of_class.thoughts
        )
        for name, by_class in gains.items()
    )
    probability = gains["right traces"]["execution"].probability
    likely = other_thoughts_change(groups["right traces"], likely=True)
    not_yet = other_thoughts_change(groups["right traces"], likely=False)
    changes = [abs(100 * (of_class.probability.mean or 0)) for of_class in elsewhere.values()]
    most = max(0.01, *changes, 0)
    return Finding(
        about="further reading: gains of thoughts (after Ton et al., arXiv 2411.11984); paper 2",
        claim="Execution brings a trace on; reflection and transition thoughts are mostly excess.",
        premises=settled_by_texts(
            config,
            "The claim could not hold: in the training texts the thought that doubts a guess also "
            "works the product out, so what a wrong start needs stands in a reflection.",
        ),
        tests=tuple(
            ClaimTest(name, effect, 0.0 if " bits less" in name else FEW_BITS, "bits")
            for name, effect in effects.items()
        ),
        text=f"A thought adds these bits to the gold answer (number of thoughts): {in_bits}. In "
        f"right traces execution changes its probability by {with_interval(probability, 100)} "
        f"points, other thoughts by {with_interval(likely, 100)} where they begin above {LIKELY:g} "
        f"and little is left to gain, by {with_interval(not_yet, 100)} where below"
        + (f", and in wrong traces no class by more than {most:.2f} points." if elsewhere else "."),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
