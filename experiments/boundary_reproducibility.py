"""Whether the thought after a boundary comes again when it is written anew from that boundary.

python -m experiments.boundary_reproducibility
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import Finding, Study, Verdict, baseline_traces, said, save, side, traces
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.report.plots.style import CLASS_COLOURS, PAGE, dots, legend_above, style
from mi_lens.traces.think_block import boundary_ids, think_ids
from mi_lens.traces.thoughts import THOUGHT_CLASSES, Thought, classify
from mi_lens.traces.vocabulary import word_of

MARKERS = {"execution": "o", "reflection": "D", "transition": "^"}
AGREE = ("class", "first word")


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        thoughts: Of each class, the first so many of each trace.
        temperatures: At which thoughts are sampled again.
        samples: Of each thought at each temperature.
        dtypes: In which thoughts are written again greedily.
    """

    limit: int = 60
    thoughts: int = 2
    temperatures: tuple[float, ...] = (0.6, 1.0)
    samples: int = 4
    dtypes: tuple[str, ...] = ("float64", "bfloat16")


@dataclass(frozen=True)
class Start:
    """A thought of a greedy trace and what led to it."""

    problem: mi_lens.Problem
    trace: mi_lens.Trace
    thought: Thought

    def request(self, stop: Sequence[int], **settings) -> mi_lens.Request:
        """Asks for this thought once more: all before it stands, its boundary too."""
        return mi_lens.Request(
            self.problem, stop=tuple(stop), prefix=self.trace.token_ids[: self.thought.start],
            **settings,
        )  # fmt: skip


def main(config: Config) -> None:
    """Writes thoughts again in every way."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    everything = [
        Start(problem, trace, thought)
        for problem, trace in zip(problems, baseline_traces(config, model, problems), strict=True)
        for thought in mi_lens.split_thoughts(model.tokenizer, trace)
    ]
    starts = chosen(everything, config.thoughts)
    if {one.thought.thought_class for one in starts} <= {"execution"}:
        raise ValueError(f"limit={config.limit}: no reflection or transition; take more problems")
    stop = sorted(boundary_ids(model.tokenizer) | set((think_ids(model.tokenizer) or ())[1:]))
    again = {"greedy, the same": rewritten(config, model, starts, stop)}
    for dtype in config.dtypes:
        other = mi_lens.load(config.model, dtype=dtype)
        again[f"greedy, {dtype}"] = rewritten(config, other, starts, stop)
    for value in config.temperatures:
        again[f"temperature {value:g}"] = rewritten(
            config, model, starts, stop, value, config.samples
        )
    agreement = {
        name: {what: by_class(starts, texts, MEASURES[what]) for what in AGREE}
        for name, texts in again.items()
    }
    chance = {what: by_chance(everything, MEASURES[what]) for what in AGREE}
    both = {name: pooled(starts, texts, MEASURES["class"]) for name, texts in again.items()}
    for name, found in agreement.items():
        shares = [f"{kind} {said(one, 100)}" for kind, one in found["class"].items()]
        print(f"{name:<20}" + "; ".join(shares))
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(agreement, chance),
        finding(both, everything, len(starts), f"temperature {config.temperatures[0]:g}"),
        {"agreement": agreement, "chance": chance, "reflection and transition": both,
         "thoughts": Counter(one.thought.thought_class for one in starts)},
    )  # fmt: skip


def chosen(everything: Sequence[Start], most: int) -> list[Start]:
    """The first so many thoughts of each class of each trace."""
    seen: Counter = Counter()
    kept = []
    for one in everything:
        key = one.trace.id, one.thought.thought_class
        seen[key] += 1
        if seen[key] <= most:
            kept.append(one)
    return kept


def rewritten(
    config: Config, model, starts: Sequence[Start], stop: Sequence[int],
    temperature: float = 0.0, samples: int = 1,
) -> list[list[str]]:  # fmt: skip
    """For every start the texts of the thoughts written in its place; "" where thinking ends."""
    condition = mi_lens.Condition((), mi_lens.Sampling(temperature))
    requests = [
        one.request(stop, condition=condition, seed=seed, max_new_tokens=config.max_new_tokens)
        for one in starts
        for seed in range(samples)
    ]
    made = traces(config, model, requests)
    texts = [
        model.tokenizer.decode(
            [t for t in trace.token_ids[len(request.prefix):] if t not in stop],
            skip_special_tokens=True,
        ).strip()
        for request, trace in zip(requests, made, strict=True)
    ]  # fmt: skip
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


MEASURES: dict[str, Callable[[str], str]] = {
    "class": lambda text: classify(text) if text else "none",
    "first word": lambda text: word_of(text.split()[0]) or text.split()[0] if text else "none",
}


def by_class(
    starts: Sequence[Start], texts: Sequence[Sequence[str]], measure: Callable[[str], str]
) -> dict[str, Estimate]:
    """Share written again alike, by the thought's class; intervals over problems."""
    return {kind: _agreement(starts, texts, measure, {kind}) for kind in THOUGHT_CLASSES}


def pooled(starts, texts, measure) -> Estimate:
    """The same of reflections and transitions together, which keywords tell."""
    return _agreement(starts, texts, measure, {"reflection", "transition"})


def _agreement(starts, texts, measure, kinds: set[str]) -> Estimate:
    by_problem: dict[str, list[float]] = {}
    for one, some in zip(starts, texts, strict=True):
        if one.thought.thought_class in kinds:
            alike = np.mean([measure(text) == measure(one.thought.text) for text in some])
            by_problem.setdefault(one.problem.id, []).append(float(alike))
    return estimate_mean([float(np.mean(values)) for values in by_problem.values()])


def by_chance(everything: Sequence[Start], measure: Callable[[str], str]) -> dict[str, float]:
    """How often a thought of any trace is like one of a class."""
    counts = Counter(measure(one.thought.text) for one in everything)
    shares = {
        kind: [counts[measure(one.thought.text)] / len(everything) for one in everything
               if one.thought.thought_class == kind]
        for kind in THOUGHT_CLASSES
    }  # fmt: skip
    return {kind: float(np.mean(some)) for kind, some in shares.items() if some}


def draw(
    agreement: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    chance: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Shares written again alike, a line a setting; short bars are what chance gives."""
    with style():
        figure, panels = plt.subplots(
            1, 2, figsize=(PAGE, 0.8 + 0.3 * len(agreement)), sharey=True
        )  # fmt: skip
        for axes, what in zip(panels, AGREE, strict=True):
            for i, kind in enumerate(THOUGHT_CLASSES):
                dots(axes, [found[what][kind] for found in agreement.values()],
                     CLASS_COLOURS[kind], scale=100.0, shift=0.22 * (i - 1), markers=MARKERS[kind],
                     label=kind)  # fmt: skip
                if kind in chance[what]:
                    axes.plot([100 * chance[what][kind]] * len(agreement),
                              np.arange(len(agreement)) + 0.22 * (i - 1), "|", markersize=5,
                              color=CLASS_COLOURS[kind],
                              label="by chance" if kind == "execution" else None)  # fmt: skip
            axes.set_xlim(-3, 103)
            axes.set_xlabel(f"same {what} when written again (%, 95 %)")
        panels[0].set_yticks(range(len(agreement)), list(agreement))
        panels[0].set_ylim(len(agreement) - 0.5, -0.5)
        legend_above(figure, panels[0])
    return figure


def shifted(one: Estimate, by: float) -> Estimate:
    """An estimate with a number added."""
    mean, low, high = (None if v is None else v + by for v in (one.mean, one.low, one.high))
    return Estimate(mean, low, high, one.n)


def finding(
    both: Mapping[str, Estimate], everything: Sequence[Start], starts: int, sampled: str
) -> Finding:
    """Reflections and transitions that do not come again, sampled from their own boundary."""
    found = both[sampled]
    verdicts: dict[int, Verdict] = {-1: "against", 0: "open", 1: "with"}
    share = np.mean([one.thought.thought_class != "execution" for one in everything])
    others = "; ".join(
        f"{said(estimate, 100)} {name}" for name, estimate in both.items() if name != sampled
    )
    return Finding(
        about="paper 2, classes by keywords; criticism: 93 % of such boundaries do not come again",
        claim="Keywords mark the boundaries at which the model is about to reflect or turn.",
        verdict=verdicts[side(shifted(found, -0.5))],
        text=f"Written anew from the boundary at {sampled}, {said(found, 100)} % of reflections "
        f"and transitions are of the same class again, where {100 * share:.0f} % of all thoughts "
        f"are one or the other. By setting it is {others} (%), over {found.n} problems and "
        f"{starts} thoughts of all classes.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
