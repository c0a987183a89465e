"""What every study shares: its settings, its saved traces, and the record of its finding.

A study is a module of `experiments`. It has a frozen `Config`, which is its command line too, and a
`main(config)`, which draws one figure and calls `save`. `python -m experiments` runs all studies.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import mi_lens
from experiments.labels import LABELS, Finding, Premise
from mi_lens.common.provenance import versions
from mi_lens.generation.plan import Plan
from mi_lens.generation.resume import generate_into
from mi_lens.models.pocket.training.wording import REFLECTING
from mi_lens.report.plots.style import GREY, save_figure

CLASS_MARKERS = {"execution": "o", "reflection": "D", "transition": "^"}  # Beside CLASS_COLOURS.
THINKING_WORDS = REFLECTING  # The pocket models'.
# Models whose texts decide where a reflection is needed, and its words.
WRITTEN = ("pocket-reasoner", "pocket-base")
# Models that the papers' claims are not about, and what they are.
NOT_REASONERS = {"smollm2": "SmolLM2-135M-Instruct, a 135M instruct model, not a reasoner"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run.

    Attributes:
        model: A pocket model, smollm2, a local checkpoint folder, or a hub id.
        problems: "pocket", "grade-school", a benchmark of the hub, or a file of problems.
        limit: Number of problems.
        max_new_tokens: Largest number of tokens that a trace may have.
        batch_size: Number of rows decoded together; it does not change results.
        seed: Seed of the problems, the random draws and the intervals.
        runs: Folder of traces and states; a study reuses what lies there.
        out: Folder that gets the figure and its numbers.
    """

    model: str = "pocket-reasoner"
    problems: str = "pocket"
    limit: int = 200
    max_new_tokens: int = 512
    batch_size: int = 64
    seed: int = 0
    runs: Path = Path("runs/studies")
    out: Path = Path("figures")

    def load_problems(self, split: str = "test", limit: int | None = None) -> list[mi_lens.Problem]:
        """The problems of a split; only the pocket task has a split other than "test"."""
        return mi_lens.load_problems(
            self.problems, limit=limit or self.limit, split=split, seed=self.seed
        )

    def scope(self) -> str:
        """The number and kind of problems, as the gallery states them."""
        return f"{self.limit} problems"

    def caption(self) -> str:
        """What stands below the figure: a model that is no reasoner, and what it was tried on."""
        model = NOT_REASONERS.get(self.model)
        return "" if model is None else f"{model}; {self.scope()}"


def of_reasoners(config: Study) -> tuple[Premise, ...]:
    """A premise that fails on a model that is known not to reason, whatever the numbers are."""
    model = NOT_REASONERS.get(config.model)
    if model is None:
        return ()
    return (Premise(f"The claim is about reasoning models; this is {model}.", "not a reasoner"),)


def settled_by_texts(config: Study, text: str) -> tuple[Premise, ...]:
    """A premise that fails on the pocket models whose training texts settle the claim.

    Args:
        config: The study; with another model or other problems there is no such premise.
        text: What the training texts settle, and how.
    """
    settled = config.problems == "pocket" and config.model in WRITTEN
    return (Premise(text, "by construction"),) if settled else ()


def block_outputs(model: Any) -> list[str]:
    """The hook names of all blocks' outputs."""
    return [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]


def requested_traces(
    config: Study, model: Any, requests: Sequence[mi_lens.Request], folder: str | None = None
) -> list[mi_lens.Trace]:
    """A trace for every request, in order.

    Args:
        config: The study.
        model: The model.
        requests: The requests to the model.
        folder: Name of a folder in `config.runs` that several studies share; None is the study's
            own folder.
    """
    return generate_into(
        _folder(config, folder), Plan(model), requests, batch_size=config.batch_size
    )


def baseline_traces(
    config: Study, model: Any, problems: Sequence[mi_lens.Problem], folder: str = "baseline"
) -> list[mi_lens.Trace]:
    """A greedy trace of every problem without interventions; all studies share them.

    Args:
        config: The study.
        model: The model.
        problems: The problems.
        folder: Name of the folder in `config.runs`.
    """
    requests = [
        mi_lens.Request(problem, max_new_tokens=config.max_new_tokens) for problem in problems
    ]
    return requested_traces(config, model, requests, folder)


def sampled_traces(
    config: Study, model: Any, problems: Sequence[mi_lens.Problem], samples: int
) -> list[mi_lens.Trace]:
    """Traces of every problem at temperature 1, problem by problem; all studies share them."""
    sampled = mi_lens.Condition((), mi_lens.Sampling(1.0))
    requests = [
        mi_lens.Request(problem, sampled, seed=seed, max_new_tokens=config.max_new_tokens)
        for problem in problems
        for seed in range(samples)
    ]
    return requested_traces(config, model, requests, "sampled")


def saved_evaluation(
    config: Study,
    model: Any,
    problems: Sequence[mi_lens.Problem],
    conditions: Sequence[mi_lens.Condition],
    seeds: Sequence[int] = (0,),
    folder: str | None = None,
) -> mi_lens.Evaluation:
    """Every condition on every problem; `folder` as in `requested_traces`.

    The first condition is the baseline. A warning says where it leaves little to change.
    """
    evaluation = mi_lens.evaluate(
        model,
        problems,
        conditions,
        seeds,
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        folder=_folder(config, folder),
    )
    baseline = evaluation.arm(evaluation.names[0]).results
    capped = float(np.mean([result.capped for result in baseline]))
    if capped > 0.5 or not any(result.correct for result in baseline):
        warnings.warn(
            f"{evaluation.names[0]!r} is right in {sum(result.correct for result in baseline)} of "
            f"{len(baseline)} traces and cut off in {100 * capped:.0f} %: there is little to "
            "change; raise --max-new-tokens",
            stacklevel=2,
        )
    return evaluation


def _folder(config: Study, name: str | None = None) -> Path:
    folder = config.runs / (name or study_name(config))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def study_name(config: Study) -> str:
    """The name of a study's module, which is also the name of its figure."""
    module = type(config).__module__
    if module != "__main__":
        return module.rpartition(".")[2]
    import __main__

    return Path(__main__.__file__).stem


def save(
    config: Study,
    models: Mapping[str, str],
    figure: Figure,
    finding: Finding,
    numbers: Mapping[str, Any],
) -> None:
    """Writes the figure, its numbers and what made them, and prints the finding.

    Args:
        config: The study.
        models: Names of the models, with their fingerprints.
        figure: The figure.
        finding: The finding that the figure shows.
        numbers: All numbers drawn or stated, with their intervals; `plain` makes them fit for JSON.
    """
    finding = replace(finding, premises=(*of_reasoners(config), *finding.premises))
    if caption := config.caption():
        lines = wrap(caption, 110)
        figure.supxlabel("\n".join(lines), fontsize="x-small", color=GREY)
        figure.set_figheight(figure.get_figheight() + 0.14 * len(lines))
    record = {
        "label": finding.label,
        **plain(finding),
        "command": command(config),
        "config": {
            name: value for name, value in plain(config).items() if name not in ("runs", "out")
        },
        "scope": config.scope(),
        "models": dict(models),
        "versions": versions(),
        "numbers": plain(numbers),
    }
    paths = save_figure(figure, config.out / study_name(config), record)
    title, _ = LABELS[finding.label]
    print(f"\n{title} ({finding.about}): {finding.text}\n{paths[0]}")


def command(config: Study) -> str:
    """The command line of this study; it names only settings that differ from the defaults."""
    words = ["python -m experiments." + study_name(config)]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name not in ("runs", "out", "batch_size"):
            values = value if isinstance(value, tuple) else [value]
            words.append(f"--{field.name.replace('_', '-')} {' '.join(map(str, values))}")
    return " ".join(words)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: arrays become lists, dataclasses become objects, NaN is null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
