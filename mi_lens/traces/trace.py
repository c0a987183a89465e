"""Traces: what a model generated, with everything needed to compute its states again."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from mi_lens.common.html import ShownList, one_line, table, text_box
from mi_lens.common.parquet import read_table, write_table
from mi_lens.common.provenance import content_hash
from mi_lens.common.records import read_lines, write_records
from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle, encode_prompt

StopReason = Literal["eos", "stop", "length", "context", "imported"]


class ConditionRecord(TypedDict, total=False):
    """The settings under which a trace was generated, as JSON.

    Attributes:
        name: Name of the condition. It has no effect on the generation.
        sampling: The fields of `Sampling`.
        interventions: The interventions in the order in which they act. Each has its "kind" and its
            settings. A hash stands for a long list of numbers.
        engine: Name and version of the engine, if it was not this package's loop.
        max_new_tokens: Largest number of generated tokens, those of a prefix included.
        style: How the question became the prompt.
        stop: Texts and token ids that end the generation.
        prefix: How many of the first generated tokens were given and not sampled.
        hooks: The user's own hooks under which the model generated: the name that the user gave
            them, or "unnamed: " and the hooks. There is no such key if there were none.
    """

    name: str
    sampling: dict[str, Any]
    interventions: list[dict[str, Any]]
    engine: str
    max_new_tokens: int
    style: PromptStyle
    stop: list[str | int]
    prefix: int
    hooks: str


@dataclass(frozen=True)
class Trace:
    """One generation. Step t is the t-th generated token.

    Attributes:
        id: Hash of what produced the trace: model, prompt, condition, seed and budget.
        model: Fingerprint of the model that generated the trace, or a name if the text was
            imported.
        prompt: The prompt as text.
        prompt_ids: The prompt's token ids, without padding.
        token_ids: The generated token ids. A final end-of-text token is included.
        text: The generated tokens as text, without special tokens.
        stop_reason: Why the generation ended: "eos" (end-of-text token), "stop" (a stop text or
            token), "length" (the budget is spent), "context" (the model's context is full), or
            "imported" (the text was not generated here).
        seed: The request's seed.
        condition: Interventions, sampling and other settings. Empty for an imported text.
        problem: The problem that the prompt asks, if there is one.
        events: What the interventions did. Each event is a mapping with "step" and "what".
        interventions: The interventions themselves, as `mi_lens.generate` was given them. They are
            not written to files; `mi_lens.with_condition` gives them back.
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
    interventions: tuple[Any, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self):
        if not self.prompt_ids:
            raise ValueError(
                f"trace {self.id}: its prompt has no tokens; the model emits the first token at "
                "the prompt's last position, so expected at least one prompt token"
            )
        if self.stop_reason not in get_args(StopReason):
            raise ValueError(
                f"trace {self.id}: stop_reason is {self.stop_reason!r}; expected one of "
                f"{get_args(StopReason)}"
            )

    def __len__(self) -> int:
        """The number of steps, which are the generated tokens."""
        return len(self.token_ids)

    def require_problem(self, purpose: str) -> Problem:
        """The problem of a trace that must have one.

        Args:
            purpose: What the problem is needed for, such as "to grade it by". The error message
                says so.

        Raises:
            ValueError: If the trace has no problem.
        """
        if self.problem is None:
            raise ValueError(
                f"trace {self.id} has no problem {purpose}; generate it from a Problem, or import "
                "it with Trace.from_text"
            )
        return self.problem

    def under(self, interventions: tuple[Any, ...]) -> "Trace":
        """The trace with its interventions themselves, which a file does not hold."""
        return replace(self, interventions=interventions)

    @property
    def consumed_ids(self) -> tuple[int, ...]:
        """For every step, the id of the token at the position that emits the step's token."""
        return (*self.prompt_ids, *self.token_ids)[len(self.prompt_ids) - 1 : -1]

    def __repr__(self) -> str:
        asked = self.prompt if self.problem is None else self.problem.question
        condition = one_line(self.condition.get("name", "imported"), 40)
        return (
            f"Trace({one_line(asked, 60)!r}: {len(self):,} tokens, {condition}, seed {self.seed}, "
            f"ended by {self.stop_reason}, id {self.id})"
        )

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
        """The text of each generated token. Bytes of a split character appear as U+FFFD."""
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
        """A trace of text that was generated elsewhere. The text is tokenised again.

        The token boundaries of imported text are the tokenizer's and not the sampler's: where a
        model sampled "Wa" + "it", the tokenizer may write "Wait". If the chat template already
        ends with "<think>", a "<think>" at the start of the text is removed.

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


class Traces(ShownList[Trace]):
    """Traces; a notebook shows them as a table."""

    columns = ("question", "gold answer", "tokens", "ended by", "seed", "condition", "end of text")

    def cells(self, item: Trace) -> tuple[Any, ...]:
        """See `ShownList.cells`."""
        problem = item.problem
        return (
            one_line(item.prompt if problem is None else problem.question, 80),
            None if problem is None else one_line(problem.answer, 40),
            len(item),
            item.stop_reason,
            item.seed,
            one_line(item.condition.get("name", "imported"), 40),
            " ".join(item.text.split())[-60:],
        )


def trace_to_row(trace: Trace) -> dict[str, Any]:
    """A trace as one JSON object."""
    row = asdict(trace.under(()))
    del row["interventions"]
    return row


def trace_from_row(row: dict[str, Any]) -> Trace:
    """The inverse of `trace_to_row`.

    Raises:
        ValueError: If fields are missing or unknown. The message names them.
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
            f"not a trace: {error}; the object has the fields {sorted(row)}; to import text that "
            "was generated elsewhere, use Trace.from_text"
        ) from None


NESTED = ("condition", "problem", "events")  # A Parquet file holds these fields as JSON texts.


def save_traces(traces: Iterable[Trace], path: str | Path) -> None:
    """Writes traces as JSON lines, or as Parquet if the path ends in ".parquet".

    The file is written completely or not at all.
    """
    rows = map(trace_to_row, traces)
    if Path(path).suffix == ".parquet":
        texts = ({**row, **{k: json.dumps(row[k]) for k in NESTED}} for row in rows)
        write_table(texts, path)
    else:
        write_records(path, rows)


def load_traces(path: str | Path) -> list[Trace]:
    """Reads the traces that `save_traces` wrote.

    Raises:
        ValueError: If a row is not a trace. The message names the number of the row.
    """
    if Path(path).suffix == ".parquet":
        rows = [{**row, **{k: json.loads(row[k]) for k in NESTED}} for row in read_table(path)]
    else:
        rows = read_lines(path)
    traces = Traces()
    for number, row in enumerate(rows, start=1):
        try:
            traces.append(trace_from_row(row))
        except ValueError as error:
            raise ValueError(f"{path}, trace {number}: {error}") from None
    return traces
