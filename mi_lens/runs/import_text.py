"""mi-lens import: texts that models wrote elsewhere, row by row of a file, as traces."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from mi_lens.common.provenance import content_hash, versions
from mi_lens.common.records import file_checksum, write_record
from mi_lens.common.writing import only_writer, writing
from mi_lens.models.loading import load_tokenizer
from mi_lens.problems.benchmarks import local_rows
from mi_lens.problems.problem import Problem
from mi_lens.runs.config import ImportConfig
from mi_lens.runs.folder import begin_run, problems_record
from mi_lens.runs.generate import LAST_WRITTEN
from mi_lens.traces.trace import StopReason, Trace
from mi_lens.traces.trace_files import save_traces

# Our names, and the columns that are taken for them if `columns` names none.
COLUMNS = {
    "question": ("question", "problem"),
    "response": ("response",),
    "gold": ("gold",),
    "is_correct": ("is_correct",),
    "model": ("model",),
    "condition": ("condition",),
    "seed": ("seed",),
    "stop_reason": ("stop_reason",),
    "finished": ("finished",),
    "problem_id": ("problem_id",),
    "source": ("source",),
    "level": ("level",),
}
REQUIRED = ("question", "response")
TRUTHS = {"true": True, "1": True, "false": False, "0": False}
IMMATERIAL = ("out", "file")  # the record names the file, and holds a checksum of its content


def run_import(config: ImportConfig) -> list[Trace]:
    """Writes the texts of a file to `config.out`/traces.jsonl.

    Raises:
        ValueError: If the file, one of its columns or one of its rows is not as expected; the
            message names the file and the row.
        FileExistsError: If the folder holds anything other than this import.
    """
    traces = read_texts(config)
    settings = {k: v for k, v in asdict(config).items() if k not in IMMATERIAL}
    problems = {trace.id: trace.require_problem("to import") for trace in traces}
    run = {
        "command": "import",
        "config": {"file": config.file.name, **settings},
        "content": file_checksum(config.file),
        "versions": versions(),
        "problems": problems_record(list(problems.values())),
    }
    folder = begin_run(config.out, json.loads(json.dumps(run)))
    with only_writer(folder), writing(folder / "run.json"):
        save_traces(traces, folder / "traces.jsonl")
        write_record(folder / LAST_WRITTEN, {"traces": [trace.id for trace in traces]})
    return traces


def read_texts(config: ImportConfig) -> list[Trace]:
    """The texts of a file as traces, one per row and in the file's order.

    Equal rows give traces with ids of their own.

    Raises:
        ValueError: See `run_import`.
        FileNotFoundError: If there is no such file.
    """
    if not config.file.is_file():
        raise FileNotFoundError(
            f"{config.file}: no such file; give a JSON-lines, CSV or Parquet file with one row "
            "per text"
        )
    rows = list(local_rows(config.file, "test"))
    if not rows:
        raise ValueError(f"{config.file}: no rows in it; expected one per text")
    columns = _columns(config, list(dict.fromkeys(name for row in rows for name in row)))
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer, config.think)
    seen: Counter[str] = Counter()
    responses: Counter[tuple[str | None, ...]] = Counter()
    problems: dict[str, Problem] = {}
    traces = []
    for number, row in enumerate(rows, start=1):
        where = f"{config.file}, row {number}"
        values = _Values({name: row.get(column) for name, column in columns.items()}, columns)
        try:
            trace = _trace(values, config, responses)
            _require_same(problems, trace)
            seen[trace.id] += 1
            if seen[trace.id] > 1:
                trace = replace(trace, id=content_hash([trace.id, seen[trace.id]]))
            if tokenizer is not None:
                trace = trace.tokenized(tokenizer, style=config.style)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        traces.append(trace)
    return traces


def _columns(config: ImportConfig, found: Sequence[str]) -> dict[str, str]:
    """Our name of each column that the file has -> the file's name of it."""
    given = dict(_pairs(config))
    columns = {}
    for name, usual in COLUMNS.items():
        if name in given:
            if given[name] not in found:
                raise ValueError(
                    f"{config.file}: no column {given[name]!r} for {name}; found {found}"
                )
            columns[name] = given[name]
            continue
        there = [column for column in usual if column in found]
        if len(there) > 1:
            raise ValueError(
                f"{config.file}: columns {there} may both hold the {name}; name one, as in "
                f"--columns {name}={there[0]}"
            )
        if not there and name in REQUIRED:
            raise ValueError(
                f"{config.file}: no column {usual[0]!r}; found {found}. Name yours, as in "
                f"--columns {name}={found[0] if found else '...'}"
            )
        if there:
            columns[name] = there[0]
    if {"stop_reason", "finished"} <= columns.keys():
        raise ValueError(
            f"{config.file}: columns for stop_reason and finished ({columns['stop_reason']!r}, "
            f"{columns['finished']!r}); expected one of them, since they may disagree: rename the "
            "other"
        )
    return columns


def _pairs(config: ImportConfig) -> Iterator[tuple[str, str]]:
    for pair in config.columns:
        name, equals, column = pair.partition("=")
        if not equals or not column or name not in COLUMNS:
            raise ValueError(
                f"columns: {pair!r}; expected a name and a column of the file, such as "
                f"question=problem; names are {[*COLUMNS]}"
            )
        yield name, column


class _Values:
    """The values of a row by our names; None, NaN and empty cells count as nothing."""

    def __init__(self, values: Mapping[str, Any], columns: Mapping[str, str]):
        self.columns = columns
        self.values = {
            name: value
            for name, value in values.items()
            if value is not None and not (isinstance(value, float) and math.isnan(value))
        }

    def error(self, name: str, expected: str) -> ValueError:
        """What is wrong with a value."""
        value = self.values.get(name)
        return ValueError(
            f"column {self.columns.get(name, name)!r} holds {value!r:.60}; expected {expected}"
        )

    def text(self, name: str) -> str | None:
        """A text; numbers are written out."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str | int | float):
            raise self.error(name, "text or a number")
        return None if value is None else str(value)

    def required(self, name: str) -> str:
        """A text that must be there."""
        text = self.text(name)
        if text is None or not text.strip():
            raise self.error(name, f"the {name}, which is empty here")
        return text

    def truth(self, name: str) -> bool | None:
        """True or false."""
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        known = TRUTHS.get(str(value).strip().lower().removesuffix(".0"))
        if known is None:
            raise self.error(name, "true, false, 1, 0 or nothing")
        return known

    def whole(self, name: str, default: int) -> int:
        """A whole number from 0."""
        value = self.values.get(name, default)
        try:
            if isinstance(value, bool) or float(value) != int(float(value)) or int(value) < 0:
                raise ValueError
            return int(value)
        except (TypeError, ValueError, OverflowError):
            raise self.error(name, "a whole number from 0") from None

    def stop_reason(self) -> StopReason | None:
        """Why the generation ended; None if the row does not say."""
        finished = self.truth("finished")
        if finished is not None:
            return "eos" if finished else "length"
        reason = self.text("stop_reason")
        for known in get_args(StopReason):
            if reason == known:
                return known
        if reason is not None:
            raise self.error("stop_reason", f"one of {get_args(StopReason)}")
        return None


def _trace(
    values: _Values, config: ImportConfig, responses: Counter[tuple[str | None, ...]]
) -> Trace:
    """A row's trace. Without a seed, a seed numbers the responses to one question."""
    question, response = (values.required(name) for name in REQUIRED)
    model = values.text("model") or config.model
    condition = values.text("condition") or config.condition
    asked = (model, condition, question)
    earlier = responses[asked]
    responses[asked] += 1
    problem = Problem(
        id=values.text("problem_id") or content_hash(question),
        question=question,
        answer=(values.text("gold") or "").strip(),
        source=values.text("source") or "",
        level=values.text("level"),
    )
    return Trace.from_text(
        None,
        problem,
        response,
        model=model,
        stop_reason=values.stop_reason(),
        think_open=config.think_open,
        seed=values.whole("seed", earlier),
        condition=condition,
        is_correct=values.truth("is_correct"),
    )


def _require_same(problems: dict[str, Problem], trace: Trace) -> None:
    """Raises a ValueError if an earlier row has another problem under the same id."""
    problem = trace.require_problem("to import")
    earlier = problems.setdefault(problem.id, problem)
    if (earlier.question, earlier.answer) != (problem.question, problem.answer):
        raise ValueError(
            f"problem {problem.id!r} has another question or gold answer than in an earlier row; "
            "expected the same in all rows of a problem"
        )
