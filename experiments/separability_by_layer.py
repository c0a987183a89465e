"""Whether states predict the class of a thought, layer by layer, better than its position.

python -m experiments.separability_by_layer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import ClaimTest, Finding, Premise
from experiments.mi_study import ReadingStudy, texts_of
from experiments.study import (
    CLASS_MARKERS,
    THINKING_WORDS,
    baseline_traces,
    block_outputs,
    save,
)
from mi_lens.common.intervals import estimate_unpaired_difference
from mi_lens.common.statistics import Estimate
from mi_lens.models.backends.lookup import backend_of
from mi_lens.report.plots.style import BLUE, CLASS_COLOURS, GREY, ORANGE, PAGE, style
from mi_lens.steering.seal import ThoughtStates, states_of_thoughts
from mi_lens.steering.separability import Separability, coordinates, probe_auc

MARGIN = 0.02  # Difference in AUC that would matter.


@dataclass(frozen=True, kw_only=True)
class Config(ReadingStudy):
    """What to run.

    Attributes:
        shuffles: Number of draws of labels shuffled within each problem.
        mapped: Largest number of thoughts to draw on a map.
        words: Words that open reflections and transitions.
    """

    shuffles: int = 5
    mapped: int = 600
    words: tuple[str, ...] = THINKING_WORDS


def main(config: Config) -> None:
    """Probes the embedding and the output of every block."""
    model = mi_lens.load(config.model)
    if config.texts is None:
        traces = baseline_traces(config, model, config.load_problems())
    else:
        traces = texts_of(config.texts, config.limit, config.steps, model.tokenizer)
    hooks = ["blocks.0.hook_resid_pre", *block_outputs(model)]
    by_trace = list(states_of_thoughts(model, traces, hooks))
    classes = np.array([thought.thought_class for trace in by_trace for thought in trace.thoughts])
    execution = classes == "execution"
    if min(execution.sum(), (~execution).sum()) < 2:
        raise ValueError(
            f"{execution.sum()} execution and {(~execution).sum()} other thoughts in "
            f"limit={config.limit} traces; expected some of both: take more problems"
        )
    problems = [trace.problem.key for trace in by_trace for _ in trace.thoughts]
    states = {name: torch.cat([trace.states[name] for trace in by_trace]) for name in hooks}
    folds = min(5, len(by_trace))

    def auc(x: torch.Tensor, labels: np.ndarray = execution) -> Separability:
        return probe_auc(x, labels, problems, folds=folds, seed=config.seed)

    by_layer = {name: auc(x) for name, x in states.items()}
    position = auc(positions(by_trace))
    next_word = auc(thinking_probability(model, states[hooks[-1]], config.words))
    rng = np.random.default_rng(config.seed)
    shuffled = {
        name: [auc(x, within(problems, execution, rng)) for _ in range(config.shuffles)]
        for name, x in states.items()
    }
    for name, layer in by_layer.items():
        chance = np.mean([control.auc for control in shuffled[name]])
        print(f"{name:<28}{auc_with_interval(layer)}  shuffled {chance:.3f}")
    print(f"{'position alone':<28}{auc_with_interval(position)}")
    print(f"{'next word is thinking':<28}{auc_with_interval(next_word)}")
    mapped = rng.permutation(len(classes))[: config.mapped]
    maps = {
        name: coordinates(states[name][mapped], method="tsne", seed=config.seed)
        for name in (hooks[1], hooks[-1])
    }
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(by_layer, position, next_word, shuffled, maps, classes[mapped]),
        finding(by_layer, position, next_word, shuffled),
        {
            "auc": by_layer,
            "position": position,
            "next word": next_word,
            "shuffled": shuffled,
            "maps": {name: places.round(2) for name, places in maps.items()},
            "mapped classes": classes[mapped],
        },
    )


def thinking_probability(model, states: torch.Tensor, words: Sequence[str]) -> torch.Tensor:
    """Log probability that a thinking word comes next; one row per state of the last block."""
    ids = sorted(mi_lens.TokenSet.of(model.tokenizer, words).ids)
    log_p = backend_of(model).unembed(model, states).double().log_softmax(-1).cpu()
    return log_p[:, ids].logsumexp(-1, keepdim=True)


def known(separability: Separability) -> Estimate:
    """An AUC as an estimate over problems."""
    return Estimate(separability.auc, separability.low, separability.high, separability.problems)


def positions(by_trace: Sequence[ThoughtStates]) -> torch.Tensor:
    """Features of a thought's place: its step, its number, their logarithms and their squares."""
    places = np.array(
        [(thought.start, i) for trace in by_trace for i, thought in enumerate(trace.thoughts)]
    )
    return torch.from_numpy(np.hstack([places, np.log1p(places), places**2]).astype(float))


def within(problems: Sequence[str], labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels shuffled among the thoughts of each problem."""
    shuffled = labels.copy()
    for problem in dict.fromkeys(problems):
        inside = np.array([other == problem for other in problems])
        shuffled[inside] = rng.permutation(shuffled[inside])
    return shuffled


def draw(
    by_layer: Mapping[str, Separability],
    position: Separability,
    next_word: Separability,
    shuffled: Mapping[str, Sequence[Separability]],
    maps: Mapping[str, np.ndarray],
    classes: np.ndarray,
) -> Figure:
    """AUC by layer with its controls, and maps of the first and the last block."""
    x = np.arange(len(by_layer))
    with style():
        figure, (left, *others) = plt.subplots(1, 3, figsize=(PAGE, 2.7), width_ratios=(1.3, 1, 1))
        layers = list(by_layer.values())
        left.axhspan(position.low, position.high, color=GREY, alpha=0.25, linewidth=0)
        left.axhline(position.auc, color=GREY, linestyle="--", label="position alone")
        left.axhline(next_word.auc, color=ORANGE, linestyle=":", label="P(thinking word next)")
        controls = [[control.auc for control in shuffled[name]] for name in by_layer]
        grey_squares: dict[str, Any] = {"color": GREY, "markersize": 2.5}
        left.plot(x, controls, "s", markeredgewidth=0, alpha=0.7, **grey_squares)
        left.plot([], [], "s", label="labels shuffled in a problem", **grey_squares)
        aucs = [layer.auc for layer in layers]
        left.plot(x, aucs, "o-", color=BLUE, markersize=3, label="states")
        left.vlines(
            x, [layer.low for layer in layers], [layer.high for layer in layers], color=BLUE
        )
        left.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
        left.set_ylabel("held-out AUC, execution\nagainst others (95 %)")
        step = max(1, len(x) // 8)
        left.set_xticks(x[::step], ["emb.", *map(str, range(len(x) - 1))][::step])
        left.set_xlabel("output of block")
        for axes, (name, places) in zip(others, maps.items(), strict=True):
            draw_map(axes, places, classes)
            axes.set_xlabel(f"t-SNE, output of block {name.split('.')[1]}")
        legends = [axes.get_legend_handles_labels() for axes in (left, others[0])]
        handles, labels = (own + of_map for own, of_map in zip(*legends, strict=True))
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def draw_map(axes: Axes, places: np.ndarray, classes: np.ndarray) -> None:
    """The places of thoughts on a map, coloured by class."""
    points: dict[str, Any] = {"markersize": 2, "alpha": 0.6, "markeredgewidth": 0}
    for kind, colour in CLASS_COLOURS.items():
        x, y = places[classes == kind].T
        axes.plot(x, y, CLASS_MARKERS[kind], color=colour, label=kind, **points)
    axes.set_xticks([])
    axes.set_yticks([])


def finding(
    by_layer: Mapping[str, Separability],
    position: Separability,
    next_word: Separability,
    shuffled: Mapping[str, Sequence[Separability]],
) -> Finding:
    """Whether the best layer predicts classes better than position, and than the first block."""
    names = list(by_layer)
    best = max(names, key=lambda name: by_layer[name].auc)
    top, early = by_layer[best], by_layer[names[1]]
    highest = known(top)
    more = {"position alone": position, "the state after the first block": early}
    chance = [control.auc for control in shuffled[best]]
    return Finding(
        about="paper 2, figure of t-SNE by layer",
        claim="Classes of thoughts come apart in their states, best in deep layers.",
        premises=(
            Premise(
                "The claim presupposes a state that tells more than which word comes next: the "
                "model's own probability of a thinking word at the boundary, which needs no probe, "
                f"tells the classes apart with AUC {auc_with_interval(next_word)}.",
                "by construction",
                estimate_unpaired_difference(highest, known(next_word)),
                MARGIN,
            ),
        ),
        tests=tuple(
            ClaimTest(
                f"AUC at {best} less that of {name}",
                estimate_unpaired_difference(highest, known(other)),
                MARGIN,
                "of AUC",
            )
            for name, other in more.items()
        ),
        text=f"A probe tells execution from other thoughts with AUC {auc_with_interval(top)} at "
        f"{best}, where position alone gives {auc_with_interval(position)}, the model's own "
        f"probability that a thinking word comes next {auc_with_interval(next_word)}, and labels "
        f"shuffled within problems {min(chance):.2f} to {max(chance):.2f}. After the first block "
        f"it is {auc_with_interval(early)}, and intervals are over {top.problems} problems with "
        f"{top.execution} execution and {top.others} other thoughts.",
    )


def auc_with_interval(separability: Separability) -> str:
    """An AUC with its interval, as "0.981 (0.962 to 0.995)"."""
    return f"{separability.auc:.3f} ({separability.low:.3f} to {separability.high:.3f})"


if __name__ == "__main__":
    main(tyro.cli(Config))
