"""Configurations of runs: the same frozen dataclasses in Python and on the command line."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mi_lens.common.checked_types import require_at_least, require_distinct, require_types
from mi_lens.problems.endings import AnswerSite, Ending
from mi_lens.problems.prompts import PromptStyle
from mi_lens.problems.think_kinds import AUTO, require_think_kind

if TYPE_CHECKING:  # torch is loaded when a run begins, not for --help
    from mi_lens.information.per_trace.peak_rules import PeakRule
    from mi_lens.interventions.sampling import Sampling
    from mi_lens.problems.problem import Problem


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of runs and sweeps: problems, prompts, sampling, and where the model runs.

    Attributes:
        problems: "pocket"; "grade-school", 20 word problems of our own; a benchmark of the hub
            (gsm8k, math500, math-train, aime24, aime25, livecodebench, livecodebench-v5); or a file
            of problems (JSON lines, CSV or Parquet).
        limit: Number of problems; None takes all problems of a file, or 100 pocket problems.
        split: Split of the pocket task or the benchmark (math-train has only train).
        question_column: Column of the questions; None tries the names that benchmarks use.
        answer_column: Column of the gold answers; None tries the names that benchmarks use.
        style: Prompt style: the chat template, without or with its thinking switched on or off; the
            raw question (paper 1); or SEAL's instruction.
        max_new_tokens: Maximum number of generated tokens per trace.
        temperature: Sampling temperature; 0 is greedy.
        top_p: Keep the fewest likeliest tokens whose total probability reaches this.
        top_k: Keep this many likeliest tokens; None keeps all.
        min_p: Keep tokens at least this many times as likely as the likeliest.
        stop: Texts that end a generation as soon as they are written.
        backend: HookedTransformer or TransformerBridge; auto takes the first that has the model.
        dtype: float32, bfloat16, float16 or float64; None takes float32 on a CPU, and the
            checkpoint's dtype elsewhere and for quantised weights (`mi_lens.load`).
        device: cpu or cuda; None takes cuda if there is one.
        think: How the model marks its thinking: think, gpt-oss, magistral, open-thoughts or none;
            auto finds it from the tokenizer and its chat template.
    """

    problems: str = "pocket"
    limit: int | None = None
    split: Literal["train", "validation", "test"] = "test"
    question_column: str | None = None
    answer_column: str | None = None
    style: PromptStyle = "chat"
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    dtype: str | None = None
    device: str | None = None
    think: str = AUTO

    def __post_init__(self):
        require_types(self)
        require_think_kind(self.think)
        require_at_least(self, limit=1, max_new_tokens=1, top_k=1)

    def sampling(self) -> "Sampling":
        """How tokens are drawn."""
        from mi_lens.interventions.sampling import Sampling

        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p)

    def load_problems(self, seed: int = 0) -> "list[Problem]":
        """Loads the problems; `seed` is used by the pocket task only."""
        from mi_lens.problems.loading import load_problems

        given = {"question": self.question_column, "answer": self.answer_column}
        columns = {field: column for field, column in given.items() if column is not None}
        return load_problems(
            self.problems, limit=self.limit, split=self.split, seed=seed, columns=columns
        )

    def load_model(self, name: str) -> Any:
        """Loads a model by name, as `mi_lens.load` does."""
        from mi_lens.models.loading import load

        return load(
            name, backend=self.backend, dtype=self.dtype, device=self.device, think=self.think
        )

    def load_tokenizer(self, name: str) -> Any:
        """Loads the tokenizer of a model by name, as `load_model` gives it to the model."""
        from mi_lens.models.loading import load_tokenizer

        return load_tokenizer(name, self.think)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(RunSettings):
    """Generate a trace for every problem.

    Attributes:
        out: Folder to write to: a new or empty one, or one that the same command began.
        model: pocket-reasoner, pocket-base, smollm2, a local checkpoint folder, a hub id, or a GGUF
            file: its path, or owner/model/file.gguf on the hub.
        intervene: Interventions in the order in which they act, each written as in Python:
            "Suppress(['Wait', 'Hmm'])", "Recycle(2, ['Wait'])",
            "Steer('vectors.safetensors', 'blocks.2.hook_resid_post', alpha=1.0)".
        seed: Seed of pocket problems, sampling and bootstrap intervals.
        batch_size: Number of traces decoded together; does not change results.
    """

    out: Path
    model: str = "pocket-reasoner"
    intervene: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, seed=0, batch_size=1)


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(GenerateConfig):
    """Generate traces, read their states, and find where they say most about the gold answer.

    Attributes:
        hook_names: Activations to read; "blocks.*.hook_resid_post" means those of every block, and
            None takes the last block's hook_resid_post (paper 1).
        site: Where the answer state is read: the last token of the worked solution (paper 1's
            code), the last token of the answer, or the mean over the answer's tokens.
        template: Whether to read the answer as the reply to the question under the chat template.
        ending: How the answer's text ends: as written; or with the answer anew, bare or with a
            full stop, a blank line, dollar signs or a bracket, boxed, in words, or in a paraphrase.
            Peaks depend on it, so the report compares all endings.
        sigma: Kernel width, in units of the activations.
        peaks: The rule that selects peaks, written as in Python: "IQR()" (paper 1's text),
            "MAD(k=3)", "TopK(20)" (paper 1's notebook).
        mismatched: Maximum number of other problems' answers that every trace is compared with.
        readout: What a peak decodes to: the token it emits, the token it reads, or its logit lens.
        keep_states: Whether the states that are read stay on disk, in activations/. Without, they
            are measured where the model is and dropped, and the numbers are the same; the logit
            lens needs them later.
    """

    hook_names: tuple[str, ...] | None = None
    site: AnswerSite = "solution_last"
    template: bool = False
    ending: Ending = "as_written"
    sigma: float = 50.0
    peaks: str = "IQR()"
    mismatched: int = 64
    readout: Literal["emitted", "consumed", "logit_lens"] = "emitted"
    keep_states: bool = True

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, mismatched=0)
        if self.readout == "logit_lens" and not self.keep_states:
            raise ValueError(
                "keep_states=False: readout='logit_lens' decodes the states of peaks, which are "
                "known once all states were measured; keep the states, or use 'emitted' or "
                "'consumed'"
            )
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma}: expected a positive width of the kernel")
        # Written in full, so that equal rules give the same run, however they are written.
        object.__setattr__(self, "peaks", repr(self.peak_rule()))

    def peak_rule(self) -> "PeakRule":
        """The rule that selects peaks."""
        from mi_lens.information.per_trace.peak_rules import parse_peak_rule

        return parse_peak_rule(self.peaks)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(GenerateConfig):
    """Try conditions on the same problems and compare them, paired by problem.

    Attributes:
        conditions: Each is a name with its interventions, such as
            "quiet=Suppress(['Wait']) + Recycle(2, ['So'])"; a name alone has no intervention. The
            others are compared with the first. `intervene` acts in all of them.
        seeds: Sampling seeds; every problem is tried with each.
    """

    conditions: tuple[str, ...] = ("baseline", "quiet=Suppress(['Wait', 'Hmm'])")
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self):
        super().__post_init__()
        require_distinct("seeds", self.seeds)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Run models x problems x conditions x seeds from one file; the same command continues it.

    Attributes:
        spec: YAML file with the fields of `mi_lens.Spec`.
        out: Folder to write to: a new or empty one, or one that the same sweep began.
        executor: Run in this process, or on a Ray cluster (`pip install 'mi-lens[ray]'`).
        workers: Number of Ray workers; None takes one per GPU, or one per CPU if there is no GPU.
        address: Address of a running Ray cluster; None starts one on this machine.
    """

    spec: Annotated[Path, tyro.conf.Positional]
    out: Path
    executor: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Import texts that models wrote elsewhere as traces, one per row of a file.

    Attributes:
        file: JSON-lines, CSV or Parquet file.
        out: Folder to write to: a new or empty one, or one that the same command began.
        columns: Which column of the file holds what, such as "question=problem response=output".
            Columns of the same name need no mention: question and response, which must be there;
            gold, is_correct (the author's label), model, condition, seed, stop_reason or finished,
            problem_id, source and level.
        model: Name of the model of rows that name none.
        condition: Name of the condition of rows that name none.
        think_open: Whether the prompts opened the think block, so that responses begin inside it; a
            response that never closes it then counts as cut off.
        tokenizer: A model, named as in `mi-lens generate --model`, whose tokenizer gives the texts
            token ids; None keeps text alone.
        style: Prompt style, if there is a tokenizer.
        think: How the texts mark their thinking, if there is a tokenizer; as in other commands.
    """

    file: Annotated[Path, tyro.conf.Positional]
    out: Path
    columns: tuple[str, ...] = ()
    model: str = "imported"
    condition: str | None = None
    think_open: bool = False
    tokenizer: str | None = None
    style: PromptStyle = "chat"
    think: str = AUTO

    def __post_init__(self):
        require_types(self)
        require_think_kind(self.think)


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """Show what a run or a sweep is, how far it is, what failed, and whether it is still written.

    Attributes:
        out: The folder that generate, analyze, evaluate or sweep writes to.
    """

    out: Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Verify that no file of a run or a sweep was altered; exits with status 1 if one was.

    Attributes:
        out: The folder that generate, analyze, evaluate or sweep writes to; nothing is changed.
    """

    out: Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Print the paired table of a sweep's results so far.

    Attributes:
        out: The sweep's folder.
        against: The condition that the others are compared with; None takes the first.
        plot: Folder to save the curves of accuracy along the grid in, as PNG and SVG with their
            numbers as JSON; None draws none.
    """

    out: Annotated[Path, tyro.conf.Positional]
    against: str | None = None
    plot: Path | None = None
