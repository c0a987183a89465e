"""Whether a model that writes a thought anew from its boundary writes the same kind of thought.

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
from experiments.labels import ClaimTest, Finding
from experiments.study import CLASS_MARKERS, Study, baseline_traces, requested_traces, save
from experiments.summaries import affine, with_interval
from mi_lens.common.intervals import estimate_share
from mi_lens.common.statistics import Estimate
from mi_lens.report.plots.style import CLASS_COLOURS, PAGE, dots, legend_above, style
from mi_lens.traces.think_block import boundary_ids, closing_ids
from mi_lens.traces.thoughts import THOUGHT_CLASSES, Thought, classify
from mi_lens.traces.vocabulary import word_of

AGREEMENTS = ("class", "first word")


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        thoughts: Number of thoughts of each class taken from each trace, the first ones.
        temperatures: Temperatures at which thoughts are sampled again.
        samples: Number of samples of each thought at each temperature.
        dtypes: Dtypes in which thoughts are written again greedily.
    """

    limit: int = 60
    thoughts: int = 2
    temperatures: tuple[float, ...] = (0.6, 1.0)
    samples: int = 4
    dtypes: tuple[str, ...] = ("float64", "bfloat16")


@dataclass(frozen=True)
class Start:
    """A thought of a greedy trace, with the trace and its problem."""

    problem: mi_lens.Problem
    trace: mi_lens.Trace
    thought: Thought

    def request(self, stop: Sequence[int], **settings) -> mi_lens.Request:
        """A request to write this thought again, after all that stands before it."""
        return mi_lens.Request(
            self.problem,
            stop=tuple(stop),
            prefix=self.trace.token_ids[: self.thought.start],
            **settings,
        )


def main(config: Config) -> None:
    """Lets the model write thoughts again, greedily and sampled, and compares their classes."""
    model = mi_lens.load(config.model)
    problems = config.load_problems()
    thoughts = [
        Start(problem, trace, thought)
        for problem, trace in zip(problems, baseline_traces(config, model, problems), strict=True)
        for thought in mi_lens.split_thoughts(model.tokenizer, trace)
    ]
    starts = first_of_each_class(thoughts, config.thoughts)
    if {start.thought.thought_class for start in starts} <= {"execution"}:
        raise ValueError(f"limit={config.limit}: no reflection or transition; take more problems")
    stop = sorted(boundary_ids(model.tokenizer) | closing_ids(model.tokenizer))
    again = {"greedy, the same": rewritten(config, model, starts, stop)}
    for dtype in config.dtypes:
        in_dtype = mi_lens.load(config.model, dtype=dtype)
        again[f"greedy, {dtype}"] = rewritten(config, in_dtype, starts, stop)
    for temperature in config.temperatures:
        again[f"temperature {temperature:g}"] = rewritten(
            config, model, starts, stop, temperature, config.samples
        )
    agreement = {
        name: {measure: by_class(starts, texts, MEASURES[measure]) for measure in AGREEMENTS}
        for name, texts in again.items()
    }
    chance = {measure: by_chance(thoughts, MEASURES[measure]) for measure in AGREEMENTS}
    marked = {
        name: of_marked_classes(starts, texts, MEASURES["class"]) for name, texts in again.items()
    }
    for name, by_measure in agreement.items():
        shares = [
            f"{kind} {with_interval(share, 100)}" for kind, share in by_measure["class"].items()
        ]
        print(f"{name:<20}" + "; ".join(shares))
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(agreement, chance),
        finding(marked, thoughts, len(starts), f"temperature {config.temperatures[0]:g}"),
        {
            "agreement": agreement,
            "chance": chance,
            "reflection and transition": marked,
            "thoughts": Counter(start.thought.thought_class for start in starts),
        },
    )


def first_of_each_class(starts: Sequence[Start], most: int) -> list[Start]:
    """The first `most` thoughts of each class in each trace."""
    seen: Counter = Counter()
    first = []
    for start in starts:
        key = start.trace.id, start.thought.thought_class
        seen[key] += 1
        if seen[key] <= most:
            first.append(start)
    return first


def rewritten(
    config: Config,
    model,
    starts: Sequence[Start],
    stop: Sequence[int],
    temperature: float = 0.0,
    samples: int = 1,
) -> list[list[str]]:
    """For every start the texts of the new thoughts in its place; "" where thinking ends."""
    condition = mi_lens.Condition((), mi_lens.Sampling(temperature))
    requests = [
        start.request(stop, condition=condition, seed=seed, max_new_tokens=config.max_new_tokens)
        for start in starts
        for seed in range(samples)
    ]
    traces = requested_traces(config, model, requests)
    texts = [
        model.tokenizer.decode(
            [token for token in trace.token_ids[len(request.prefix) :] if token not in stop],
            skip_special_tokens=True,
        ).strip()
        for request, trace in zip(requests, traces, strict=True)
    ]
    return [texts[first : first + samples] for first in range(0, len(texts), samples)]


MEASURES: dict[str, Callable[[str], str]] = {
    "class": lambda text: classify(text) if text else "none",
    "first word": lambda text: word_of(text.split()[0]) or text.split()[0] if text else "none",
}


def by_class(
    starts: Sequence[Start], texts: Sequence[Sequence[str]], measure: Callable[[str], str]
) -> dict[str, Estimate]:
    """Share of thoughts that agree with the first, by its class; intervals over problems."""
    return {kind: _agreement(starts, texts, measure, {kind}) for kind in THOUGHT_CLASSES}


def of_marked_classes(
    starts: Sequence[Start], texts: Sequence[Sequence[str]], measure: Callable[[str], str]
) -> Estimate:
    """The share for reflections and transitions together: the classes that keywords mark."""
    return _agreement(starts, texts, measure, {"reflection", "transition"})


def _agreement(
    starts: Sequence[Start],
    texts: Sequence[Sequence[str]],
    measure: Callable[[str], str],
    kinds: set[str],
) -> Estimate:
    by_problem: dict[str, list[float]] = {}
    samples = min((len(new_texts) for new_texts in texts), default=1)
    for start, new_texts in zip(starts, texts, strict=True):
        if start.thought.thought_class in kinds:
            alike = np.mean([measure(text) == measure(start.thought.text) for text in new_texts])
            by_problem.setdefault(start.problem.id, []).append(float(alike))
    # Problems have different numbers of thoughts; the fewest tell how many trials are behind each.
    trials = samples * min(map(len, by_problem.values()), default=1)
    shares = [float(np.mean(values)) for values in by_problem.values()]
    return estimate_share(shares, trials=trials)


def by_chance(starts: Sequence[Start], measure: Callable[[str], str]) -> dict[str, float]:
    """How often any thought agrees with a thought of a class, by class."""
    counts = Counter(measure(start.thought.text) for start in starts)
    shares = {
        kind: [
            counts[measure(start.thought.text)] / len(starts)
            for start in starts
            if start.thought.thought_class == kind
        ]
        for kind in THOUGHT_CLASSES
    }
    return {kind: float(np.mean(values)) for kind, values in shares.items() if values}


def draw(
    agreement: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    chance: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Shares of thoughts that agree, one line per setting; short bars show chance."""
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE, 0.8 + 0.3 * len(agreement)), sharey=True)
        for axes, measure in zip(panels, AGREEMENTS, strict=True):
            for i, kind in enumerate(THOUGHT_CLASSES):
                colour, marker, shift = CLASS_COLOURS[kind], CLASS_MARKERS[kind], 0.22 * (i - 1)
                shares = [by_measure[measure][kind] for by_measure in agreement.values()]
                dots(axes, shares, colour, scale=100.0, shift=shift, markers=marker, label=kind)
                if kind in chance[measure]:
                    x = [100 * chance[measure][kind]] * len(agreement)
                    y = np.arange(len(agreement)) + shift
                    label = "by chance" if kind == "execution" else None
                    axes.plot(x, y, "|", markersize=5, color=colour, label=label)
            axes.set_xlim(-3, 103)
            axes.set_xlabel(f"same {measure} when written again (%, 95 %)")
        panels[0].set_yticks(range(len(agreement)), list(agreement))
        panels[0].set_ylim(len(agreement) - 0.5, -0.5)
        legend_above(figure, panels[0])
    return figure


def finding(
    marked: Mapping[str, Estimate], thoughts: Sequence[Start], starts: int, sampled: str
) -> Finding:
    """Whether reflections and transitions come again when sampled from their boundary."""
    share = marked[sampled]
    base_rate = np.mean([start.thought.thought_class != "execution" for start in thoughts])
    others = "; ".join(
        f"{with_interval(estimate, 100)} {name}"
        for name, estimate in marked.items()
        if name != sampled
    )
    return Finding(
        about="paper 2, classes by keywords; criticism: 93 % of such boundaries do not come again",
        claim="Keywords mark the boundaries at which the model is about to reflect or turn.",
        tests=(
            ClaimTest(
                f"share of marked thoughts of the same class again at {sampled}, less one half",
                affine(share, 100, -50),
                0.0,
                "points",
            ),
        ),
        text=f"Written anew from the boundary at {sampled}, {with_interval(share, 100)} % of "
        f"reflections and transitions are of the same class again, where {100 * base_rate:.0f} % "
        f"of all thoughts are one or the other. By setting it is {others} (%), over {share.n} "
        f"problems and {starts} thoughts of all classes.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
