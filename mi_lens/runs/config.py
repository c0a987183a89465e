"""What a run is asked to do: the same frozen dataclasses in Python and on the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:  # torch loads when a run begins, not for --help
    from mi_lens.information.per_trace.peak_rules import PeakRule
    from mi_lens.interventions.sampling import Sampling
    from mi_lens.problems.problem import Problem


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run and a sweep both say: problems, prompts, sampling, and where the model runs.

    Attributes:
        problems: "pocket", a benchmark of the hub (gsm8k, math500, math-train, aime24, aime25,
            livecodebench, livecodebench-v5), or a file of problems: JSON lines, CSV or Parquet.
        limit: Number of problems; None takes a file whole, or 100 pocket problems.
        split: Split of the pocket task or the benchmark (math-train has train only).
        style: Prompt: the chat template, the raw question (paper 1), or SEAL's instruction.
        max_new_tokens: Budget of a trace.
        temperature: 0 is greedy.
        top_p: Keep the fewest likeliest tokens whose probability reaches this.
        top_k: Keep this many likeliest tokens.
        min_p: Keep tokens at least this many times as likely as the likeliest.
        stop: Texts that end a generation once written.
        backend: HookedTransformer or TransformerBridge; auto takes the first that exists.
        dtype: As float32, bfloat16 or float64; None takes float32 on a CPU, else the checkpoint's.
        device: As cpu or cuda; None takes cuda where there is one.
    """

    problems: str = "pocket"
    limit: int | None = None
    split: Literal["train", "validation", "test"] = "test"
    style: Literal["chat", "raw", "seal"] = "chat"
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: str | None = None
    device: str | None = None

    def sampling(self) -> "Sampling":
        """How tokens are drawn."""
        from mi_lens.interventions.sampling import Sampling

        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)

    def load_problems(self, seed: int = 0) -> "list[Problem]":
        """The problems; the seed is that of the pocket task."""
        from mi_lens.problems.loading import load_problems

        return load_problems(self.problems, limit=self.limit, split=self.split, seed=seed)

    def load_model(self, name: str) -> Any:
        """The model of a name, as `mi_lens.load` gives it."""
        from mi_lens.models.loading import load

        return load(name, backend=self.backend, dtype=self.dtype, device=self.device)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(RunSettings):
    """Generate a trace for every problem.

    Attributes:
        out: Folder to write to: new or empty, or one that the same command began.
        model: pocket-reasoner, pocket-base, a local checkpoint folder, or a hub id.
        intervene: Interventions in the order in which they act, each as it would be written in
            Python: "Suppress(['Wait', 'Hmm'])", "Recycle(2, ['Wait'])",
            "Steer('vectors.safetensors', 'blocks.2.hook_resid_post', alpha=1.0)".
        seed: Of pocket problems, sampling, and bootstrap intervals.
        batch_size: Rows decoded together; does not change results.
    """

    out: Path
    model: str = "pocket-reasoner"
    intervene: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(GenerateConfig):
    """Generate traces, read their states, and find where they say most about the gold answer.

    Attributes:
        hook_names: Activations to read, where "blocks.*.hook_resid_post" is every block's; None
            takes the last block's hook_resid_post (paper 1).
        site: The answer state: the last token of the worked solution (paper 1's code), the last
            token of the answer, or the mean over the answer's tokens.
        template: Read the answer as the reply to the question under the chat template.
        sigma: Kernel width, in units of the activations.
        peaks: The rule that picks peaks, as it would be written in Python: "IQR()" (paper 1's
            text), "MAD(k=3)", "TopK(20)" (paper 1's notebook).
        mismatched: Other problems' answers that every trace is compared with, at most.
        readout: What a peak decodes to: the token it emits, the token it reads, or its logit lens.
    """

    hook_names: tuple[str, ...] | None = None
    site: Literal["solution_last", "answer_last", "answer_mean"] = "solution_last"
    template: bool = False
    sigma: float = 50.0
    peaks: str = "IQR()"
    mismatched: int = 64
    readout: Literal["emitted", "consumed", "logit_lens"] = "emitted"

    def __post_init__(self):
        # Written in full: the same rule is the same run, however it was asked for.
        object.__setattr__(self, "peaks", repr(self.peak_rule()))

    def peak_rule(self) -> "PeakRule":
        """The rule that picks peaks."""
        from mi_lens.information.per_trace.peak_rules import parse_peak_rule

        return parse_peak_rule(self.peaks)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(GenerateConfig):
    """Try conditions on the same problems and compare them pair by pair.

    Attributes:
        conditions: Each a name and what acts, "quiet=Suppress(['Wait']) + Recycle(2, ['So'])"; a
            name alone has no intervention. The first is what the others are compared with.
            `intervene` acts in all of them.
        seeds: Of the sampling, each on every problem.
    """

    conditions: tuple[str, ...] = ("baseline", "quiet=Suppress(['Wait', 'Hmm'])")
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Run models x problems x conditions x seeds from one file; the same command goes on.

    Attributes:
        spec: YAML file (`mi_lens.Spec` has the names).
        out: Folder to write to: new or empty, or one that the same sweep began.
        executor: This process, or workers of a Ray cluster (`pip install 'mi-lens[ray]'`).
        workers: Ray workers; None takes one a GPU, or one a CPU where there is no GPU.
        address: Of a running Ray cluster; None starts one on this machine.
    """

    spec: Annotated[Path, tyro.conf.Positional]
    out: Path
    executor: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """How far a sweep is, what failed and why.

    Attributes:
        out: The sweep's folder.
    """

    out: Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """The paired table of what a sweep has found so far.

    Attributes:
        out: The sweep's folder.
        against: Condition that the others are compared with; None takes the first.
    """

    out: Annotated[Path, tyro.conf.Positional]
    against: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one self-contained HTML page of finished or unfinished runs.

    Attributes:
        runs: Folders that generate, analyze, evaluate or sweep wrote; analyses are compared side
            by side.
        out: The page.
        traces: Traces of each run that the page holds, the first ones in order.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("report.html")
    traces: int = 20


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Analyze both pocket models on the same problems and write one report.

    Attributes:
        out: Folder to write to: new or empty, or one that the same command began.
        limit: Number of problems.
        seed: Of the problems and of bootstrap intervals.
    """

    out: Path = Path("demo")
    limit: int = 100
    seed: int = 0
