"""What every study shares: how it is asked, where its traces lie, how it says what it found.

A study is a module of `experiments` with a frozen `Config`, which is its command line too, and a
`main(config)` that draws one figure and saves it with `save`. `python -m experiments` runs all.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

import mi_lens
from mi_lens.common.provenance import content_hash, versions
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.comparison import Arm
from mi_lens.generation.request import Plan
from mi_lens.generation.resume import generate_into
from mi_lens.models.pocket.training.wording import REFLECTION_WORDS
from mi_lens.report.plots.style import save_figure
from mi_lens.runs.measure import activations_path
from mi_lens.states.shard import capture_code

THINKING_WORDS = (*REFLECTION_WORDS, "Alternatively")  # the pocket reasoner's


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to run.

    Attributes:
        model: pocket-reasoner, pocket-base, a local checkpoint folder, or a hub id.
        problems: "pocket", a benchmark of the hub, or a file of problems.
        limit: Number of problems.
        max_new_tokens: Budget of a trace.
        batch_size: Rows decoded together; does not change results.
        seed: Of problems, draws and intervals.
        runs: Folder of traces and states: what is there is not made again.
        out: Folder of the figure and its numbers.
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
        """The problems; another split is of the pocket task only."""
        return mi_lens.load_problems(
            self.problems, limit=limit or self.limit, split=split, seed=self.seed
        )

    def scope(self) -> str:
        """What it is tried on, for the gallery."""
        return f"{self.limit} problems"


Verdict = Literal["with", "against", "in part", "open", "beyond"]
VERDICTS: dict[Verdict, str] = {
    "with": "With the paper",
    "against": "Against the paper",
    "in part": "In part with, in part against the paper",
    "open": "Undecided",
    "beyond": "Not asked by the papers",
}


@dataclass(frozen=True)
class Finding:
    """What a study found, on the model and problems of its configuration.

    Attributes:
        about: The figure, table or criticism that it answers, as "paper 1, table 2".
        claim: What is said there, in a few words.
        verdict: How it came out here.
        text: Two sentences made from the numbers: what was found, and how sure that is.
    """

    about: str
    claim: str
    verdict: Verdict
    text: str


def analysis(config: Study, model: str | None = None, **settings: Any) -> mi_lens.Analysis:
    """The analysis of a model at every block, on the study's problems; made once for all studies.

    Args:
        config: The study.
        model: Another model than the study's.
        settings: What else differs from the defaults of `AnalyzeConfig`.
    """
    asked: dict[str, Any] = {
        "model": model or config.model,
        "problems": config.problems,
        "limit": config.limit,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "hook_names": ("blocks.*.hook_resid_post",),
        **settings,
    }
    # States are only read again by the code that wrote them.
    name = content_hash([asked, versions(), capture_code()])
    return mi_lens.analyze(
        mi_lens.AnalyzeConfig(
            **asked, out=config.runs / f"analysis-{name}", batch_size=config.batch_size
        )
    )


def states_of(found: mi_lens.Analysis, hook_name: str) -> list[Tensor]:
    """The states of every analysed trace at a hook name, which the analysis kept."""
    paths = [activations_path(found.config.out, trace) for trace in found.analysed]
    return [mi_lens.load_activations(path, [hook_name])[hook_name] for path in paths]


def traces(
    config: Study, model: Any, requests: Sequence[mi_lens.Request], kept: str | None = None
) -> list[mi_lens.Trace]:
    """A trace for every request, in order.

    Args:
        config: The study.
        model: The model.
        requests: What is asked of it.
        kept: Folder of `config.runs` that several studies share; None is the study's own.
    """
    return generate_into(_folder(config, kept), Plan(model), requests, batch_size=config.batch_size)


def baseline_traces(
    config: Study, model: Any, problems: Sequence[mi_lens.Problem], kept: str | None = None
) -> list[mi_lens.Trace]:
    """A greedy trace of every problem, with nothing done to it; see `traces`."""
    requests = [mi_lens.Request(one, max_new_tokens=config.max_new_tokens) for one in problems]
    return traces(config, model, requests, kept)


def sampled_traces(
    config: Study, model: Any, problems: Sequence[mi_lens.Problem], samples: int
) -> list[mi_lens.Trace]:
    """Traces of every problem at temperature 1, problem by problem; kept for all studies alike."""
    sampled = mi_lens.Condition((), mi_lens.Sampling(1.0))
    requests = [
        mi_lens.Request(one, sampled, seed=seed, max_new_tokens=config.max_new_tokens)
        for one in problems
        for seed in range(samples)
    ]
    return traces(config, model, requests, "sampled")


def evaluation(
    config: Study,
    model: Any,
    problems: Sequence[mi_lens.Problem],
    conditions: Sequence[mi_lens.Condition],
    seeds: Sequence[int] = (0,),
    kept: str | None = None,
) -> mi_lens.Evaluation:
    """Conditions on problems, the first being what others are compared with; see `traces`."""
    found = mi_lens.evaluate(
        model, problems, conditions, seeds, max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size, folder=_folder(config, kept),
    )  # fmt: skip
    base = found.arm(found.names[0]).results
    capped = float(np.mean([result.capped for result in base]))
    if capped > 0.5 or not any(result.correct for result in base):
        warnings.warn(
            f"{found.names[0]!r} is right in {sum(result.correct for result in base)} of "
            f"{len(base)} traces and cut off in {100 * capped:.0f} %: there is little to change; "
            "raise --max-new-tokens",
            stacklevel=2,
        )
    return found


def _folder(config: Study, name: str | None = None) -> Path:
    folder = config.runs / (name or study_name(config))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def study_name(config: Study) -> str:
    """The name of a study's module, which its figure has too."""
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
        models: Names of what was run, with their fingerprints.
        figure: What was drawn.
        finding: What it says.
        numbers: Everything drawn or said, with intervals; made fit for JSON here.
    """
    record = {
        **asdict(finding),
        "command": command(config),
        "config": {k: v for k, v in plain(config).items() if k not in ("runs", "out")},
        "scope": config.scope(),
        "models": dict(models),
        "versions": versions(),
        "numbers": plain(numbers),
    }
    paths = save_figure(figure, config.out / study_name(config), record)
    print(f"\n{VERDICTS[finding.verdict]} ({finding.about}): {finding.text}\n{paths[0]}")


def command(config: Study) -> str:
    """What to type for this study: its settings that are not the defaults."""
    words = ["python -m experiments." + study_name(config)]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name not in ("runs", "out", "batch_size"):
            values = value if isinstance(value, tuple) else [value]
            words.append(f"--{field.name.replace('_', '-')} {' '.join(map(str, values))}")
    return " ".join(words)


def plain(value: Any) -> Any:
    """A value made of what JSON knows; numpy's numbers and dataclasses become its own."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def said(estimate: Estimate, scale: float = 1.0, digits: int = 1) -> str:
    """An estimate with its interval, as "-1.3 (-2.0 to -0.7)" or "0.0 (all 60 alike)"."""
    if estimate.mean is None:
        return "undefined"

    def number(value: float) -> str:
        return f"{round(scale * value, digits) + 0.0:.{digits}f}"  # No "-0.0".

    if estimate.low is None or estimate.high is None:
        return number(estimate.mean)
    if np.isclose(estimate.low, estimate.high, rtol=0, atol=1e-12):
        # A bootstrap of equal values has no width, which is not certainty.
        return f"{number(estimate.mean)} (all {estimate.n} alike)"
    return f"{number(estimate.mean)} ({number(estimate.low)} to {number(estimate.high)})"


def side(estimate: Estimate) -> int:
    """1 where the whole interval lies above zero, -1 where below, 0 where neither is known."""
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > 0) - int(estimate.high < 0)


def outcomes(arm: Arm, field: str) -> np.ndarray:
    """For every problem the mean of "correct", "tokens" or "capped" over its traces."""
    return np.array(
        [np.mean([getattr(one, field) for one in some]) for some in arm.by_problem().values()]
    )


def correct(found: mi_lens.Evaluation, name: str) -> np.ndarray:
    """For every problem the share of a condition's traces that answer it rightly."""
    return outcomes(found.arm(name), "correct")


def is_right(traces: Sequence[mi_lens.Trace]) -> np.ndarray:
    """For every trace 1 where its answer is the gold answer, else 0."""
    return np.array([float(mi_lens.grade(t.text, t.problem).correct) for t in traces if t.problem])
