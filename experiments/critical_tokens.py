"""Whether one token makes a trace fail: wrong traces continued with that token and without it.

Forbidding one token is weak evidence: another often says the same. Thoughts that are written anew
(`experiments.resampled_thoughts`) are the stronger one.

python -m experiments.critical_tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

import mi_lens
from experiments.labels import Finding
from experiments.study import THINKING_WORDS, Study, sampled_traces, save
from experiments.summaries import is_right, with_interval
from mi_lens.evaluation.critical_tokens import Rollouts, critical_gain, mean_gain, roll_out
from mi_lens.report.plots.words import rollouts_figure
from mi_lens.traces.vocabulary import word_of


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        samples: Number of traces of each problem at temperature 1; the wrong ones are used.
        rolled_out: Largest number of wrong traces to roll out, one per problem.
        steps: Number of steps of highest entropy in each trace, and of other steps.
        continuations: Number of continuations of each kind at each step.
        words: Thinking tokens.
    """

    limit: int = 80
    samples: int = 8
    rolled_out: int = 24
    steps: int = 4
    continuations: int = 8
    words: tuple[str, ...] = THINKING_WORDS


def main(config: Config) -> None:
    """Rolls out wrong traces from steps of high entropy and from other steps."""
    model = mi_lens.load(config.model)
    traces = sampled_traces(config, model, config.load_problems(), config.samples)
    wrong = first_wrong_traces(traces)[: config.rolled_out]
    uncertain, others = zip(*(steps(model, trace, config) for trace in wrong), strict=True)
    settings: dict[str, Any] = {
        "samples": config.continuations,
        "seed": 1000,
        "progress": True,
        "max_new_tokens": config.max_new_tokens,
        "batch_size": config.batch_size,
    }
    at_uncertain = roll_out(model, wrong, uncertain, **settings)
    at_others = roll_out(model, wrong, others, **settings)
    groups = by_kind(at_uncertain, at_others, config)
    gains = {
        name: (mean_gain(rollouts), critical_gain(rollouts)) for name, rollouts in groups.items()
    }
    for name, (mean, critical) in gains.items():
        print(
            f"{name:<18}{len(groups[name]):>4} steps: mean gain {with_interval(mean, 100)} points, "
            f"at the most critical step {with_interval(critical, 100)}"
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


def first_wrong_traces(traces: Sequence[mi_lens.Trace]) -> list[mi_lens.Trace]:
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
    """The steps of highest entropy and as many other steps, both without the last step."""
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
    """Rollouts by the kind of token at their step, without empty groups."""
    thinking = {word.casefold() for word in config.words}

    def kind(rollouts: Rollouts) -> str:
        if rollouts.text.strip().isdigit():
            return "digits"
        return "thinking tokens" if word_of(rollouts.text) in thinking else "rest"

    groups = {"uncertain steps": uncertain, "other steps": others} | {
        name: [rollouts for rollouts in uncertain if kind(rollouts) == name]
        for name in ("digits", "thinking tokens", "rest")
    }
    return {name: group for name, group in groups.items() if group}


def finding(groups: dict[str, Sequence[Rollouts]], traces: int) -> Finding:
    """Whether a wrong trace becomes right when a single token of it is forbidden."""
    uncertain, others = groups["uncertain steps"], groups["other steps"]
    critical = critical_gain(uncertain)
    success = 100 * float(np.mean([np.mean(rollouts.kept) for rollouts in uncertain]))
    return Finding(
        about="further reading: critical tokens (Lin et al., arXiv 2411.19943); weak evidence, see "
        "resampled_thoughts",
        claim="Not asked here; there: critical tokens decide that a trace fails.",
        asked=False,
        text="Forbidding the most critical of a wrong trace's uncertain tokens changes success by "
        f"{with_interval(critical, 100)} points, chosen and judged by different continuations of "
        f"{traces} traces that with the token succeed in {success:.0f} % when gone on with anew. "
        f"Forbidding any uncertain token changes it by {with_interval(mean_gain(uncertain), 100)}, "
        f"any other by {with_interval(mean_gain(others), 100)} points.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
