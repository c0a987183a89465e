"""Traces as JSON objects and as files: JSON lines or Parquet."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_lens.common.html import ShownList, one_line
from mi_lens.common.parquet import read_table, write_table
from mi_lens.common.records import read_lines, write_records
from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace


class Traces(ShownList[Trace]):
    """Traces; a notebook shows them as a table."""

    columns = ("question", "gold answer", "tokens", "ended by", "seed", "condition", "end of text")

    def cells(self, item: Trace) -> tuple[Any, ...]:
        """See `ShownList.cells`."""
        problem = item.problem
        return (
            one_line(item.prompt if problem is None else problem.question, 80),
            None if problem is None else one_line(problem.answer, 40),
            None if item.text_only else len(item),
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
            "was generated elsewhere, use mi-lens import or Trace.from_text"
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
