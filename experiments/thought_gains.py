"""How much each thought adds to the probability of the gold answer, by class of thought.

python -m experiments.thought_gains
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tyro

import mi_lens
from experiments.study import Finding, Study, Verdict, is_right, said, sampled_traces, save, side
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.across_problems.thought_gains import (
    ThoughtGains,
    gains_by_class,
    thought_gains,
)
from mi_lens.report.plots.thoughts import gains_figure
from mi_lens.traces.thoughts import THOUGHT_CLASSES

LIKELY = 0.9  # A thought that begins above this probability of the answer can hardly add to it.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        asking: How the answer is asked for, as the model itself ends; the default is the pocket
            models'.
    """

    limit: int = 80
    asking: str = ".\n</think>\n\nThe result is \\boxed{"


def main(config: Config) -> None:
    """Asks for the answer after every thought of one sampled trace a problem."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), 1)
    found = thought_gains(model, traces, asking=config.asking, progress=True)
    right = {t.id for t, correct in zip(traces, is_right(traces), strict=True) if correct}
    groups = {
        "right traces": [one for one in found if one.trace in right],
        "wrong traces": [one for one in found if one.trace not in right],
    }
    groups = {name: some for name, some in groups.items() if some}
    if "right traces" not in groups:
        raise ValueError(
            f"none of {len(traces)} traces is right and has thoughts: no thought adds to a right "
            "answer; give more problems (--limit) or easier ones"
        )
    for name, some in groups.items():
        for thought_class, gains in gains_by_class(some).items():
            print(
                f"{name}, {thought_class:<12}{gains.thoughts:>4} thoughts: "
                f"{said(gains.bits)} bits, probability {said(gains.probability, digits=2)}"
            )
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        gains_figure(groups),
        finding(groups),
        {name: numbers(some) for name, some in groups.items()},
    )


def numbers(found: Sequence[ThoughtGains]) -> dict:
    """Gains by class, and every trace's bits at its cuts."""
    traces = [
        {"trace": one.trace, "cuts": one.cuts, "bits": one.bits,
         "classes": [thought.thought_class for thought in one.thoughts]}
        for one in found
    ]  # fmt: skip
    begun = {
        "likely" if likely else "not yet": changes_begun(found, likely=likely)
        for likely in (True, False)
    }
    return {"classes": gains_by_class(found), "other thoughts begun": begun, "traces": traces}


def changes_begun(found: Sequence[ThoughtGains], *, likely: bool) -> Estimate:
    """How reflections and transitions change the gold answer's probability, by where they begin.

    Args:
        found: Traces, one a problem.
        likely: Those that begin where that probability is above `LIKELY`, or the others.
    """
    by_trace = []
    for one in found:
        steps = zip(one.thoughts, pairwise(2 ** -np.array(one.bits[1:])), strict=True)
        changes = [
            after - before
            for thought, (before, after) in steps
            if thought.thought_class != "execution" and (before > LIKELY) == likely
        ]
        if changes:
            by_trace.append(float(np.mean(changes)))
    return estimate_mean(by_trace)


def finding(groups: Mapping[str, Sequence[ThoughtGains]]) -> Finding:
    """Execution should gain bits of the answer in right traces, other thoughts less or none.

    Judged in bits, as a probability near 1 can only fall; and in wrong traces too, where a
    reflection has something to mend.
    """
    gains = {name: gains_by_class(some) for name, some in groups.items()}
    useful, *others = (gains["right traces"][name].bits for name in THOUGHT_CLASSES)
    elsewhere = gains.get("wrong traces", {})
    mended = any(side(one.bits) > 0 for name, one in elsewhere.items() if name != "execution")
    helpful = mended or any(side(one) > 0 for one in others)
    excess = all(
        one.high is not None and one.high < (useful.low or 0.0) for one in others if one.n
    ) and any(one.n for one in others)
    verdict: Verdict = "open"
    if side(useful) > 0:
        verdict = "in part" if helpful else "with" if excess else "open"
    elif helpful or side(useful) < 0:
        verdict = "against"
    in_bits = "; ".join(
        f"in {len(groups[name])} {name} "
        + ", ".join(
            f"{kind} {said(one.bits)} ({one.thoughts})"
            for kind, one in found.items()
            if one.thoughts
        )
        for name, found in gains.items()
    )
    probability = gains["right traces"]["execution"].probability
    likely, not_yet = (
        changes_begun(groups["right traces"], likely=above) for above in (True, False)
    )
    most = max(0.01, *(abs(100 * (one.probability.mean or 0)) for one in elsewhere.values()), 0)
    return Finding(
        about="further reading: gains of thoughts (after Ton et al., arXiv 2411.11984); paper 2",
        claim="Execution brings a trace on; reflection and transition thoughts are mostly excess.",
        verdict=verdict,
        text=f"A thought adds these bits to the gold answer (number of thoughts): {in_bits}. "
        f"In right traces execution changes its probability by {said(probability, 100)} points, "
        f"other thoughts by {said(likely, 100)} where they begin above {LIKELY:g} and little is "
        f"left to gain, by {said(not_yet, 100)} where below"
        + (f", and in wrong traces no class by more than {most:.2f} points." if elsewhere else "."),
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
