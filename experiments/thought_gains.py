"""How much each thought adds to the probability of the gold answer, by class of thought.

python -m experiments.thought_gains
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tyro

import mi_lens
from experiments.study import Finding, Study, Verdict, is_right, said, sampled_traces, save, side
from mi_lens.gains import ThoughtGains, gains_by_class, thought_gains
from mi_lens.reading_plots import gains_figure
from mi_lens.thoughts import THOUGHT_CLASSES


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
    return {"classes": gains_by_class(found), "traces": traces}


def finding(groups: Mapping[str, Sequence[ThoughtGains]]) -> Finding:
    """Execution should gain probability of the answer in right traces, other thoughts not."""
    right = gains_by_class(groups["right traces"])
    gained = [right[name].probability for name in THOUGHT_CLASSES]
    useful, *others = (side(one) > 0 for one in gained)
    verdict: Verdict = "in part"
    if useful and not any(others):
        verdict = "with"
    elif any(others) and not useful:
        verdict = "against"
    execution, reflection, transition = (said(one, 100) for one in gained)
    wrong = ""
    if "wrong traces" in groups:
        of_class = gains_by_class(groups["wrong traces"])["execution"]
        wrong = f"; in wrong traces it adds {said(of_class.probability, 100)} points"
    bits = right["execution"].bits
    return Finding(
        about="further reading: gains of thoughts (after Ton et al., arXiv 2411.11984); paper 2",
        claim="Execution brings a trace on; reflection and transition thoughts are mostly excess.",
        verdict=verdict,
        text=f"In {len(groups['right traces'])} right traces an execution thought adds {execution} "
        f"points to the probability of the gold answer, a reflection {reflection}, a transition "
        f"{transition}. An execution thought gains {said(bits)} bits there{wrong}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
