"""What studies of per-trace MI share: an analysis at every block, of traces written or read.

A model's own traces are greedy. With `texts` it reads instead what another model wrote, token by
token as if it had written it (teacher-forced).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import mi_lens
from experiments.study import Study, block_outputs
from mi_lens.common.provenance import code_hash, content_hash, versions
from mi_lens.common.records import read_record
from mi_lens.generation.plan import Plan
from mi_lens.problems.benchmarks import SHIPPED
from mi_lens.problems.endings import STATED, Ending
from mi_lens.runs.analysis import LAST_WRITTEN
from mi_lens.runs.folder import open_run
from mi_lens.runs.measure import measure_into
from mi_lens.states.shard import capture_code


@dataclass(frozen=True, kw_only=True)
class MIStudy(Study):
    """What to run, for a study of per-trace MI.

    Attributes:
        ending: How the answer's text ends; peaks depend on it (`experiments.answer_endings`).
    """

    ending: Ending = "as_written"

    def scope(self) -> str:
        """The problems, and how the answers end that states are compared with."""
        ends = f"answers end {self.ending.replace('_', ' ')}"
        if self.ending == "as_written" and self.problems in ("pocket", *SHIPPED):
            ends = "answers end with a full stop"
        return f"{super().scope()}, {ends}"


@dataclass(frozen=True, kw_only=True)
class ReadingStudy(Study):
    """What to run, for a study of traces that the model wrote or reads.

    Attributes:
        texts: A file of responses to read, of `question`, `response` and `gold`, and the author's
            `is_correct`; None lets the model write. Then `limit` is a number of responses.
        steps: Number of tokens that are read of each of these responses.
    """

    texts: Path | None = None
    steps: int = 900

    def scope(self) -> str:
        """See `Study.scope`."""
        if self.texts is None:
            return super().scope()
        return (
            f"{super().scope()}; the model reads (teacher-forced), and did not write, the first "
            f"{self.steps} tokens of {self.texts.stem}"
        )


@dataclass(frozen=True, kw_only=True)
class MIReadingStudy(ReadingStudy, MIStudy):
    """What to run, for a study of per-trace MI of traces that the model wrote or reads."""


def saved_analysis(config: Study, model: str | None = None, **settings: Any) -> mi_lens.Analysis:
    """The analysis of a model at every block, on the study's traces; all studies share it.

    Args:
        config: The study.
        model: The model to analyse; None is the study's own.
        settings: Settings of `AnalyzeConfig` that replace those of the study.
    """
    analyze_settings: dict[str, Any] = {
        "model": model or config.model,
        "problems": config.problems,
        "limit": config.limit,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "hook_names": ("blocks.*.hook_resid_post",),
        **settings,
    }
    if isinstance(config, MIStudy) and config.ending != "as_written":
        analyze_settings["ending"] = config.ending
    if isinstance(config, ReadingStudy) and config.texts is not None:
        analyze_settings |= {"problems": config.texts.name, "style": "raw"}
    # Other versions of the code get another folder: states are read by the code that wrote them,
    # and numbers are of one way of measuring.
    measuring = code_hash("information/per_trace")
    name = content_hash([analyze_settings, versions(), capture_code(), measuring])
    analyze_config = mi_lens.AnalyzeConfig(
        **analyze_settings, out=config.runs / f"analysis-{name}", batch_size=config.batch_size
    )
    if isinstance(config, ReadingStudy) and config.texts is not None:
        return _analysis_of_texts(config.texts, config.steps, analyze_config)
    if (analyze_config.out / LAST_WRITTEN).exists():  # Its summaries take a minute to write anew.
        return mi_lens.Analysis.load(analyze_config.out)
    return mi_lens.analyze(analyze_config)


def _analysis_of_texts(
    file: Path, steps: int, analyze_config: mi_lens.AnalyzeConfig
) -> mi_lens.Analysis:
    """The analysis of texts that the model reads; it holds no tables of words."""
    model = mi_lens.load(analyze_config.model)
    assert analyze_config.limit is not None
    traces = texts_of(file, analyze_config.limit, steps, model.tokenizer)
    plan, hooks = Plan(model), block_outputs(model)
    problems = [trace.require_problem("whose answer is stated") for trace in traces]
    folder = open_run(analyze_config, plan.fingerprint, plan.engine.name, problems, [])
    return mi_lens.Analysis(
        config=analyze_config,
        traces=tuple(traces),
        token_strings=tuple(trace.token_strings(model.tokenizer) for trace in traces),
        hook_names=tuple(hooks),
        measurements=measure_into(folder, analyze_config, plan, traces, hooks),
        tokens={},
    )


def texts_of(file: Path, limit: int, steps: int, tokenizer: Any) -> list[mi_lens.Trace]:
    """The first tokens of texts as traces; the answer, if given, is stated in one sentence.

    Args:
        file: See `ReadingStudy.texts`.
        limit: Number of texts.
        steps: Number of tokens of each.
        tokenizer: The tokenizer of the model that reads them.
    """
    lines = file.read_text(encoding="utf-8").splitlines()[:limit]
    traces = []
    for row in map(json.loads, lines):
        gold = row["gold"] or ""
        solution = f"{STATED}{gold}." if gold else None
        problem = mi_lens.Problem(row["id"], row["question"], gold, solution=solution)
        ids = tokenizer.encode(row["response"], add_special_tokens=False)[:steps]
        traces.append(
            mi_lens.Trace.from_text(
                tokenizer,
                problem,
                tokenizer.decode(ids),
                model=row["model"],
                style="raw",
                is_correct=row["is_correct"],
            )
        )
    return traces


def fingerprint_of(analysis: mi_lens.Analysis) -> str:
    """The fingerprint of the model whose states an analysis read."""
    return read_record(analysis.config.out)["model"]


def states_of(analysis: mi_lens.Analysis, hook_name: str) -> list[Tensor]:
    """The states of every analysed trace at a hook name, as the analysis saved them."""
    return [analysis.states(trace, hook_name) for trace in analysis.analysed]
