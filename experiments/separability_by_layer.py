"""Whether states tell what a thought will be, layer by layer, beside what its position tells.

python -m experiments.separability_by_layer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

import mi_lens
from experiments.study import Finding, Study, Verdict, baseline_traces, save
from mi_lens.report.plots.style import BLUE, CLASS_COLOURS, GREY, PAGE, style
from mi_lens.steering.seal import states_of_thoughts
from mi_lens.steering.separability import Separability, coordinates, probe_auc

MARKERS = {"execution": "o", "reflection": "D", "transition": "^"}


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        shuffles: Draws of labels shuffled within each problem.
        mapped: Thoughts to draw on a plane, at most.
    """

    shuffles: int = 5
    mapped: int = 600


def main(config: Config) -> None:
    """Probes the embedding and every block's output."""
    model = mi_lens.load(config.model)
    traces = baseline_traces(config, model, config.load_problems())
    hooks = ["blocks.0.hook_resid_pre"]
    hooks += [f"blocks.{n}.hook_resid_post" for n in range(model.cfg.n_layers)]
    read = list(states_of_thoughts(model, traces, hooks))
    classes = np.array([t.thought_class for one in read for t in one.thoughts])
    execution = classes == "execution"
    if min(execution.sum(), (~execution).sum()) < 2:
        raise ValueError(
            f"{execution.sum()} execution and {(~execution).sum()} other thoughts in "
            f"limit={config.limit} traces; expected some of both: take more problems"
        )
    problems = [one.problem.key for one in read for _ in one.thoughts]
    states = {name: torch.cat([one.states[name] for one in read]) for name in hooks}
    folds = min(5, len(read))

    def auc(x: torch.Tensor, labels: np.ndarray = execution) -> Separability:
        return probe_auc(x, labels, problems, folds=folds, seed=config.seed)

    found = {name: auc(x) for name, x in states.items()}
    position = auc(positions(read))
    rng = np.random.default_rng(config.seed)
    shuffled = {
        name: [auc(x, within(problems, execution, rng)) for _ in range(config.shuffles)]
        for name, x in states.items()
    }
    for name, one in found.items():
        chance = np.mean([some.auc for some in shuffled[name]])
        print(f"{name:<28}{one.auc:.3f} ({one.low:.3f} to {one.high:.3f})  shuffled {chance:.3f}")
    print(f"{'position alone':<28}{position.auc:.3f} ({position.low:.3f} to {position.high:.3f})")
    shown = rng.permutation(len(classes))[: config.mapped]
    maps = {
        name: coordinates(states[name][shown], method="tsne", seed=config.seed)
        for name in (hooks[1], hooks[-1])
    }
    save(
        config,
        {config.model: mi_lens.model_fingerprint(model)},
        draw(found, position, shuffled, maps, classes[shown]),
        finding(found, position, shuffled),
        {
            "auc": found, "position": position, "shuffled": shuffled,
            "maps": {name: one.round(2) for name, one in maps.items()},
            "mapped classes": classes[shown],
        },
    )  # fmt: skip


def positions(read: Sequence) -> torch.Tensor:
    """What may be known of a thought from its place: the step, which thought, and their bends."""
    places = np.array([(t.start, i) for one in read for i, t in enumerate(one.thoughts)])
    return torch.from_numpy(np.hstack([places, np.log1p(places), places**2]).astype(float))


def within(problems: Sequence[str], labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels that change hands among the thoughts of a problem."""
    shuffled = labels.copy()
    for problem in dict.fromkeys(problems):
        its = np.array([one == problem for one in problems])
        shuffled[its] = rng.permutation(shuffled[its])
    return shuffled


def draw(
    found: Mapping[str, Separability],
    position: Separability,
    shuffled: Mapping[str, Sequence[Separability]],
    maps: Mapping[str, np.ndarray],
    classes: np.ndarray,
) -> Figure:
    """AUC by layer with its controls, and maps of an early and the last block."""
    x = np.arange(len(found))
    with style():
        figure, (left, *others) = plt.subplots(1, 3, figsize=(PAGE, 2.7), width_ratios=(1.3, 1, 1))
        some = list(found.values())
        left.axhspan(position.low, position.high, color=GREY, alpha=0.25, linewidth=0)
        left.axhline(position.auc, color=GREY, linestyle="--", label="position alone")
        left.plot(x, [[s.auc for s in shuffled[name]] for name in found], "s", color=GREY,
                  markersize=2.5, markeredgewidth=0, alpha=0.7)  # fmt: skip
        left.plot([], [], "s", color=GREY, markersize=2.5, label="labels shuffled in a problem")
        left.plot(x, [one.auc for one in some], "o-", color=BLUE, markersize=3, label="states")
        left.vlines(x, [one.low for one in some], [one.high for one in some], color=BLUE)
        left.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
        left.set_ylabel("held-out AUC, execution\nagainst others (95 %)")
        step = max(1, len(x) // 8)
        left.set_xticks(x[::step], ["emb.", *map(str, range(len(x) - 1))][::step])
        left.set_xlabel("output of block")
        for axes, (name, places) in zip(others, maps.items(), strict=True):
            for kind, colour in CLASS_COLOURS.items():
                its = classes == kind
                axes.plot(*places[its].T, MARKERS[kind], color=colour, markersize=2, alpha=0.6,
                          markeredgewidth=0, label=kind)  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(f"t-SNE, output of block {name.split('.')[1]}")
        legends = [axes.get_legend_handles_labels() for axes in (left, others[0])]
        handles, labels = (a + b for a, b in zip(*legends, strict=True))
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def finding(
    found: Mapping[str, Separability],
    position: Separability,
    shuffled: Mapping[str, Sequence[Separability]],
) -> Finding:
    """The best layer against position, and against the first block."""
    names = list(found)
    best = max(names, key=lambda name: found[name].auc)
    top, early = found[best], found[names[1]]
    beyond = top.low > position.high
    deeper = names.index(best) > len(names) / 2 and top.low > early.high
    verdict: Verdict = "open"
    if beyond:
        verdict = "with" if deeper else "in part"
    elif top.high < position.low:
        verdict = "against"
    chance = [one.auc for one in shuffled[best]]
    return Finding(
        about="paper 2, figure of t-SNE by layer",
        claim="Classes of thoughts come apart in their states, best in deep layers.",
        verdict=verdict,
        text=f"A probe tells execution from other thoughts with AUC {_said(top)} at {best}, "
        f"where position alone gives {_said(position)} and labels shuffled within problems "
        f"{min(chance):.2f} to {max(chance):.2f}. "
        f"After the first block it is {_said(early)}, and intervals are over {top.problems} "
        f"problems with {top.execution} execution and {top.others} other thoughts.",
    )


def _said(one: Separability) -> str:
    return f"{one.auc:.3f} ({one.low:.3f} to {one.high:.3f})"


if __name__ == "__main__":
    main(tyro.cli(Config))
