"""Traces: what a model generated, with everything needed to read its states again."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from mi_lens.common.files import read_jsonl, write_jsonl
from mi_lens.common.html import table, text_box
from mi_lens.common.parquet import read_table, write_table
from mi_lens.common.provenance import content_hash
from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle, encode_prompt

StopReason = Literal["eos", "stop", "length", "context", "imported"]


class ConditionRecord(TypedDict, total=False):
    """The settings under which a trace was made, as JSON.

    Attributes:
        name: Of the condition; decides nothing.
        sampling: The fields of `Sampling`.
        interventions: In the order in which they act, each with its "kind" and its settings; a hash
            stands for a long list of numbers.
        engine: Name and version of the engine, where it was not this package's loop.
        max_new_tokens: Budget, a prefix included.
        style: How the question became the prompt.
        stop: Texts and token ids that end the generation.
        prefix: How many of the first generated tokens were given.
    """

    name: str
    sampling: dict[str, Any]
    interventions: list[dict[str, Any]]
    engine: str
    max_new_tokens: int
    style: PromptStyle
    stop: list[str | int]
    prefix: int


@dataclass(frozen=True)
class Trace:
    """One generation. Step t is the t-th generated token.

    Attributes:
        id: Hash of what produced it: model, prompt, condition, seed, budget.
        model: Fingerprint of the model that generated it, or a name for an imported text.
        prompt: The prompt as text.
        prompt_ids: Its token ids, without padding.
        token_ids: The generated token ids, an ending end-of-text token included.
        text: The generated tokens as text, special tokens left out.
        stop_reason: "eos", "stop" (a stop text or token), "length" (budget spent), "context"
            (model's window full), "imported".
        seed: The request's seed.
        condition: Interventions, sampling and other settings; empty for an imported text.
        problem: The problem that the prompt puts, where there is one.
        events: What interventions did: a mapping each, with "step" and "what".
    """

    id: str
    model: str
    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    seed: int = 0
    condition: ConditionRecord = field(default_factory=ConditionRecord)
    problem: Problem | None = None
    events: tuple[dict[str, Any], ...] = ()

    def __post_init__(self):
        if not self.prompt_ids:
            raise ValueError(
                f"trace {self.id}: its prompt has no tokens; a first token can only be emitted "
                "at a prompt's last position"
            )
        if self.stop_reason not in get_args(StopReason):
            raise ValueError(
                f"trace {self.id}: stop_reason {self.stop_reason!r}, expected one of "
                f"{get_args(StopReason)}"
            )

    def __len__(self) -> int:
        """The number of steps, generated tokens."""
        return len(self.token_ids)

    def require_problem(self, purpose: str) -> Problem:
        """The problem, where there must be one.

        Args:
            purpose: What it is needed for, for the error: "to grade it by".

        Raises:
            ValueError: If there is none.
        """
        if self.problem is None:
            raise ValueError(
                f"trace {self.id} has no problem {purpose}; generate it from a Problem, or import "
                "it with Trace.from_text"
            )
        return self.problem

    @property
    def consumed_ids(self) -> tuple[int, ...]:
        """For every step, the token read at the position that emits it."""
        return (*self.prompt_ids, *self.token_ids)[len(self.prompt_ids) - 1 : -1]

    def _repr_html_(self) -> str:
        problem = self.problem
        about = {
            "question": self.prompt if problem is None else problem.question,
            "gold answer": None if problem is None else problem.answer,
            "tokens": len(self),
            "ended by": self.stop_reason,
            "seed": self.seed,
            "condition": self.condition.get("name"),
        }
        return f"{table(about)}\n{text_box(self.text)}"

    def token_strings(self, tokenizer) -> list[str]:
        """The generated tokens one by one, as text; bytes of a split character show as U+FFFD."""
        return tokenizer.batch_decode([[token] for token in self.token_ids])

    @classmethod
    def from_text(
        cls,
        tokenizer,
        problem: Problem | str,
        text: str,
        *,
        model: str = "imported",
        style: PromptStyle = "chat",
    ) -> "Trace":
        """A trace of text that was generated elsewhere, tokenised anew.

        Where a model samples "Wa" + "it" the tokenizer may write "Wait": token boundaries of
        imported text are the tokenizer's, not the sampler's. A text that opens with the "<think>"
        with which a chat template already ends is read as going on from there.

        Raises:
            ValueError: If the text is empty.
        """
        if isinstance(problem, str):
            problem = Problem(id=content_hash(problem), question=problem, answer="")
        prompt, prompt_ids = encode_prompt(tokenizer, problem.question, style)
        if prompt.rstrip().endswith("<think>"):
            text = text.removeprefix("<think>").removeprefix("\n")
        if not text:
            raise ValueError(f"problem {problem.id}: the text to import is empty")
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        return cls(
            id=content_hash([model, prompt_ids, token_ids]),
            model=model,
            prompt=prompt,
            prompt_ids=prompt_ids,
            token_ids=token_ids,
            text=text,
            stop_reason="imported",
            problem=problem,
        )


def trace_to_row(trace: Trace) -> dict[str, Any]:
    """A trace as one JSON object."""
    return asdict(trace)


def trace_from_row(row: dict[str, Any]) -> Trace:
    """The inverse of `trace_to_row`.

    Raises:
        ValueError: Naming the fields that are missing or unknown.
    """
    fields = dict(row)
    try:
        for name in ("prompt_ids", "token_ids"):
            fields[name] = tuple(fields[name])
        fields["events"] = tuple(fields.get("events", ()))
        if fields.get("problem") is not None:
            problem = dict(fields["problem"])
            if problem.get("tests") is not None:
                problem["tests"] = CodeTests.from_json(problem["tests"])
            fields["problem"] = Problem(**problem)
        return Trace(**fields)
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"not a trace: {error}; found the fields {sorted(row)}; import text made elsewhere "
            "with Trace.from_text"
        ) from None


NESTED = ("condition", "problem", "events")  # JSON texts in a Parquet file


def save_traces(traces: Iterable[Trace], path: str | Path) -> None:
    """Writes traces as JSON lines, or as Parquet by the path's ending; whole or not at all."""
    rows = map(trace_to_row, traces)
    if Path(path).suffix == ".parquet":
        texts = ({**row, **{k: json.dumps(row[k]) for k in NESTED}} for row in rows)
        write_table(texts, path)
    else:
        write_jsonl(path, rows)


def load_traces(path: str | Path) -> list[Trace]:
    """Reads what `save_traces` wrote; an error names the line."""
    if Path(path).suffix == ".parquet":
        rows = [{**row, **{k: json.loads(row[k]) for k in NESTED}} for row in read_table(path)]
    else:
        rows = read_jsonl(path)
    traces = []
    for number, row in enumerate(rows, start=1):
        try:
            traces.append(trace_from_row(row))
        except ValueError as error:
            raise ValueError(f"{path}, trace {number}: {error}") from None
    return traces
