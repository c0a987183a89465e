"""Configurations of runs: the same frozen dataclasses in Python and on the command line."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mi_lens.common.checked_types import require_at_least, require_distinct, require_types
from mi_lens.problems.endings import AnswerSite, Ending
from mi_lens.problems.prompts import PromptStyle
from mi_lens.problems.think_kinds import AUTO, require_think_kind
from mi_lens.runs.settings import RunSettings

if TYPE_CHECKING:  # torch is loaded when a run begins, not for --help
    from mi_lens.information.per_trace.peak_rules import PeakRule


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(RunSettings):
    """Generate a trace for every problem.

    Attributes:
        out: Folder to write to: a new or empty one, or one that the same command began.
        model: A pocket model, smollm2, a local checkpoint folder, a hub id, or a GGUF file: its
            path, or owner/model/file.gguf on the hub.
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
        read_with: What reads the traces: "model", a HookedTransformer or TransformerBridge, which
            is loaded once another engine has written; or "engine", that engine itself (only vllm),
            which measures where its states are and gives numbers alone. That needs
            keep_states=False, and hook names of the residual stream between blocks.
        belief: Whether, and where, to force an answer: "boundary" at every boundary between
            thoughts, a number k at every k-th step, None nowhere. A trace is read once more, and
            the question and up to two answers (some 20 to 30 tokens) at each such place; the run
            prints the number of tokens before it asks (`mi_lens.answer_belief`).
        asking: The text between such a place and the answer, as the model itself would end; None
            leaves the think block and says "The final answer is", with an open box.
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
    read_with: Literal["model", "engine"] = "model"
    belief: Literal["boundary"] | int | None = None
    asking: str | None = None

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, mismatched=0)
        if isinstance(self.belief, int):
            require_at_least(self, belief=1)
        if self.asking is not None and self.belief is None:
            raise ValueError(
                f"asking={self.asking!r} with belief=None: no answer is asked for; give belief too "
                "(--belief boundary), or leave asking out"
            )
        if self.read_with == "engine":
            self._require_engine_that_reads()
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

    def _require_engine_that_reads(self) -> None:
        if self.engine != "vllm":
            raise ValueError(
                f"read_with='engine' with engine={self.engine!r}: only engine 'vllm' measures what "
                "it reads; leave read_with out, and the model reads"
            )
        if self.keep_states:
            raise ValueError(
                "read_with='engine' with keep_states=True: states never leave the engine's "
                "workers; give keep_states=False (--no-keep-states), or leave read_with out"
            )
        if self.belief is not None:
            raise ValueError(
                f"read_with='engine' with belief={self.belief!r}: the engine measures states and "
                "forces no answers; leave read_with out, and the model reads and is asked"
            )

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
            others are compared with the first. `intervene` acts in all of them. "@controls" stands
            for the methods that the field compares and their controls, made for the model from
            traces of other problems: "@controls(problems='math-train', limit=500)".
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
