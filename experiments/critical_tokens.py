"""Does one token decide that a trace fails? Wrong traces gone on with, with it and without it.

python -m experiments.critical_tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro

import mi_lens
from experiments.study import THINKING_WORDS, Finding, Study, is_right, said, sampled_traces, save
from mi_lens.evaluation.critical_tokens import Rollouts, critical_gain, mean_gain, roll_out
from mi_lens.report.plots.words import rollouts_figure
from mi_lens.traces.vocabulary import word_of


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        samples: Traces of each problem, at temperature 1, among which the wrong ones are found.
        rolled_out: Wrong traces to roll out, one a problem.
        steps: Steps of each: so many of highest entropy, and as many others.
        continuations: Of each kind at each step.
        words: Thinking tokens.
    """

    limit: int = 80
    samples: int = 8
    rolled_out: int = 24
    steps: int = 4
    continuations: int = 8
    words: tuple[str, ...] = THINKING_WORDS


def main(config: Config) -> None:
    """Rolls out wrong traces from steps of high entropy and from other ones."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), config.samples)
    wrong = one_wrong_each(traces)[: config.rolled_out]
    uncertain, others = zip(*(steps(model, trace, config) for trace in wrong), strict=True)
    at_uncertain, at_others = (
        roll_out(
            model, wrong, some, samples=config.continuations, seed=1000, progress=True,
            max_new_tokens=config.max_new_tokens, batch_size=config.batch_size,
        )
        for some in (uncertain, others)
    )  # fmt: skip
    groups = by_kind(at_uncertain, at_others, config)
    gains = {name: (mean_gain(some), critical_gain(some)) for name, some in groups.items()}
    for name, (mean, critical) in gains.items():
        print(
            f"{name:<18}{len(groups[name]):>4} steps: mean gain {said(mean, 100)} points, at the "
            f"most critical step {said(critical, 100)}"
        )
    numbers = {
        name: {"steps": len(groups[name]), "mean": mean, "critical": critical}
        for name, (mean, critical) in gains.items()
    }
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        rollouts_figure(groups),
        finding(groups, len(wrong)),
        {"groups": numbers, "rollouts": at_uncertain + at_others},
    )


def one_wrong_each(traces: Sequence[mi_lens.Trace]) -> list[mi_lens.Trace]:
    """The first wrong trace of every problem that has one."""
    wrong = {}
    for trace, right in zip(traces, is_right(traces), strict=True):
        if not right and trace.problem is not None:
            wrong.setdefault(trace.problem.id, trace)
    if not wrong:
        raise ValueError(
            f"none of {len(traces)} sampled traces is wrong: there is nothing to mend; give more "
            "problems (--limit) or harder ones"
        )
    return list(wrong.values())


def steps(model, trace: mi_lens.Trace, config: Config) -> tuple[list[int], list[int]]:
    """The steps of highest entropy, the end left out, and as many others."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    (states,) = mi_lens.capture(model, [trace], [last])
    entropy = mi_lens.next_token_uncertainty(model, trace, states[last])["entropy"][:-1]
    order = np.argsort(-entropy, kind="stable")
    rng = np.random.default_rng(config.seed)
    others = rng.choice(order[config.steps :], config.steps, replace=False)
    return sorted(order[: config.steps].tolist()), sorted(others.tolist())


def by_kind(
    uncertain: Sequence[Rollouts], others: Sequence[Rollouts], config: Config
) -> dict[str, Sequence[Rollouts]]:
    """Rollouts by what stood there; kinds of which there is none are left out."""
    thinking = {word.casefold() for word in config.words}

    def kind(one: Rollouts) -> str:
        if one.text.strip().isdigit():
            return "digits"
        return "thinking tokens" if word_of(one.text) in thinking else "rest"

    groups = {"uncertain steps": uncertain, "other steps": others} | {
        name: [one for one in uncertain if kind(one) == name]
        for name in ("digits", "thinking tokens", "rest")
    }
    return {name: some for name, some in groups.items() if some}


def finding(groups: dict[str, Sequence[Rollouts]], traces: int) -> Finding:
    """Whether a single token of a wrong trace, forbidden, mends it."""
    uncertain, others = groups["uncertain steps"], groups["other steps"]
    critical = critical_gain(uncertain)
    success = 100 * float(np.mean([np.mean(one.kept) for one in uncertain]))
    return Finding(
        about="further reading: critical tokens (Lin et al., arXiv 2411.19943)",
        claim="Not asked here; there: critical tokens decide that a trace fails.",
        verdict="beyond",
        text=f"Forbidding the most critical of a wrong trace's uncertain tokens changes success by "
        f"{said(critical, 100)} points, chosen and judged by different continuations of {traces} "
        f"traces that with the token succeed in {success:.0f} % when gone on with anew. Forbidding "
        f"any uncertain token changes it by {said(mean_gain(uncertain), 100)}, any other by "
        f"{said(mean_gain(others), 100)} points.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
