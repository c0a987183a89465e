"""Thoughts by class in right and wrong texts of large reasoning models, on AIME25.

python -m experiments.thoughts_of_real_models
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tyro

from experiments.labels import ClaimTest, Finding
from experiments.study import save
from experiments.summaries import affine
from experiments.texts_of_models import Texts, model_of
from mi_lens.evaluation.result import CAPPED
from mi_lens.evaluation.thought_contrast import Part, ThoughtContrast, contrast_outcomes
from mi_lens.evaluation.two_groups import permute_labels, problem_key
from mi_lens.report.plots.two_groups import thoughts_figure
from mi_lens.traces.thoughts import THOUGHT_CLASSES, ThoughtClass, split_text
from mi_lens.traces.trace import Trace

HELD = ("reflection", "transition")  # The classes that the claim is about.
Parts = dict[Part, ThoughtContrast]


@dataclass(frozen=True, kw_only=True)
class Config(Texts):
    """What to read; see `Texts`."""


def main(config: Config) -> None:
    """Compares right with wrong texts of each model, by the labels of whoever published them."""
    files = sorted(config.data.glob("aime25_*.jsonl"))
    reason = config.missing() or ("" if files else f"{config.data}: no texts on AIME25 there")
    if reason:
        print(reason)
        return
    groups, checksums = {}, {}
    for file in files:
        traces, checksum = config.read(file.stem)
        groups[model_of(traces)], checksums[model_of(traces)] = traces, checksum
    by_model = {name: outcomes(traces, config.seed) for name, traces in groups.items()}
    pooled = outcomes([trace for traces in groups.values() for trace in traces], config.seed)
    p_values = within_models(list(groups.values()), config.seed)
    panels = {
        f"{short(name)}, {part}" if part != "all" else short(name): found
        for name, parts in by_model.items()
        for part, found in parts.items()
        if part == "all" or found.traces != parts["all"].traces
    }
    for title, found in panels.items():
        for kind, compared in found.classes.items():
            print(f"{title:<32}{kind:<12}{compared.difference.in_form('+.1f')} right less wrong")
    save(
        config,
        checksums,
        thoughts_figure(panels, ("right", "wrong")),
        finding(groups, by_model, pooled, p_values),
        {
            "by model": {name: numbers(parts) for name, parts in by_model.items()},
            "same problem, models mixed": numbers(pooled),
            "p within models": p_values,
        },
    )


def numbers(parts: Parts) -> dict[str, object]:
    """What was compared in each part, and the result by class."""
    return {
        part: {
            "traces": found.traces,
            "paired by": found.pairing.paired_by,
            "problems": found.pairing.problems,
            "thoughts per trace": found.classes,
        }
        for part, found in parts.items()
    }


def short(name: str) -> str:
    """A model's name as titles have it."""
    return name.replace("DeepSeek-R1-Distill", "R1")


def outcomes(traces: Sequence[Trace], seed: int) -> Parts:
    """Right against wrong traces."""
    return contrast_outcomes(traces, [trace.is_correct for trace in traces], seed=seed)


def within_models(groups: Sequence[Sequence[Trace]], seed: int) -> dict[ThoughtClass, float]:
    """p-values of the mean over models of right less wrong, for outcomes permuted within models."""
    counts, labels = [], []
    for traces in groups:
        right = np.array([trace.is_correct is True for trace in traces])
        if not 0 < right.sum() < len(right):
            continue
        kinds = [[t.thought_class for t in split_text(trace.text)] for trace in traces]
        counts.append(np.array([[float(k.count(c)) for c in THOUGHT_CLASSES] for k in kinds]))
        labels.append(right)
    if not counts:
        return {}
    adjusted = permute_labels(counts, labels, 9999, seed)[1]
    return dict(zip(THOUGHT_CLASSES, adjusted.tolist(), strict=True))


def finding(
    groups: Mapping[str, Sequence[Trace]],
    by_model: Mapping[str, Parts],
    pooled: Parts,
    p_values: Mapping[ThoughtClass, float],
) -> Finding:
    """Whether wrong texts have more reflections and transitions, and what stands in the way."""
    traces = [trace for of_model in groups.values() for trace in of_model]
    cut_off = [trace for trace in traces if trace.stop_reason in CAPPED]
    known = {name: parts["all"] for name, parts in by_model.items() if parts}
    means = {
        kind: "; ".join(
            f"{short(name)} {found.classes[kind].first.mean:.0f} and "
            f"{found.classes[kind].second.mean:.0f}"
            for name, found in known.items()
        )
        for kind in HELD
    }
    ended = (
        f"none of the {len(traces)} texts was cut off"
        if not cut_off
        else f"{len(cut_off)} of {len(traces)} texts were cut off, of which "
        f"{sum(trace.is_correct is True for trace in cut_off)} are right"
    )
    return Finding(
        about="paper 2, thoughts by correctness, in texts that nobody read the states of",
        claim="Wrong traces have more reflection and transition thoughts.",
        tests=tuple(
            ClaimTest(
                f"{kind}, {short(name)}, wrong less right",
                affine(found.classes[kind].difference, -1),
                1.0,
                "thoughts",
            )
            for name, found in known.items()
            for kind in HELD
        ),
        text=f"In published texts of {len(groups)} large models on AIME25, right and wrong ones "
        f"have so many reflections each: {means['reflection']}; and transitions: "
        f"{means['transition']} (p = {p_values.get('reflection', 1):.2g} and "
        f"{p_values.get('transition', 1):.2g} over all models, outcomes permuted within each). "
        f"These are {_sizes(known)} texts of {_problems(traces)} problems, one of each problem by "
        "each model, so right and wrong texts differ in their problems and in how hard these are; "
        f"{ended}; and {_mixed(pooled)}.",
    )


def _problems(traces: Sequence[Trace]) -> int:
    return len(set(map(problem_key, traces)))


def _sizes(known: Mapping[str, ThoughtContrast]) -> str:
    return ", ".join(f"{a} right and {b} wrong" for a, b in (f.traces for f in known.values()))


def _mixed(pooled: Parts) -> str:
    """Right less wrong on the same problems, where the models differ in place of the problems."""
    found = pooled.get("all")
    if found is None or found.pairing.paired_by is None:
        return "no problem has a right and a wrong text"
    parts = ", ".join(f"{found.classes[k].difference.in_form('+.0f')} {k}s" for k in HELD)
    return (
        f"on the {found.pairing.problems[0]} problems that some model got right and another wrong, "
        f"right less wrong is {parts}, which is a difference of models too"
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
