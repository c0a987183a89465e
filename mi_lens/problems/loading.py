"""Loads problems from the built-in task, a benchmark or a file."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mi_lens.problems.answers import boxed_answer
from mi_lens.problems.arithmetic import pocket_problems
from mi_lens.problems.benchmarks import BENCHMARKS, SHIPPED, hub_rows, local_rows, shipped_rows
from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.problem import Problem, require_writable
from mi_lens.problems.prompts import code_question

# The columns in which common benchmarks keep each field; the first that a row has is used.
COLUMNS = {
    "id": ("unique_id", "id", "question_id", "idx"),
    "question": ("question", "problem", "question_content"),
    "answer": ("answer", "gold"),
    "solution": ("solution",),
    "level": ("level", "difficulty"),
    "split": ("split",),
}
GSM8K_MARK = "\n####"  # The gold answer follows, on the last line.


def load_problems(
    source: str | Path,
    *,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> list[Problem]:
    r"""Loads problems from the built-in task, the package, a benchmark on the hub, or a file.

    A row needs a question and a gold answer, in the columns that `columns` names or in those that
    common benchmarks use. The gold answer may also be GSM8K's ending "#### 18", or the last boxed
    answer in `solution`. A row with LiveCodeBench's `public_test_cases` becomes a problem with
    tests, and its question is extended by the form in which to answer.

    Args:
        source: "pocket"; "grade-school", 20 word problems of our own; a name in
            `mi_lens.problems.benchmarks.BENCHMARKS`, such as "gsm8k"; the path of a JSON-lines, CSV
            or Parquet file; or a folder that `datasets` loads.
        limit: Number of problems to take from the start; None takes all, or 100 pocket problems.
        split: The split of the pocket task, the benchmark or the folder. In a file it is the split
            of the rows that have no column `split`.
        seed: Selects the stream of pocket problems; other sources keep their order.
        columns: A field of `Problem` -> the column that holds it.

    Raises:
        ValueError: If there are no problems, a row lacks a question or an answer, or there are
            columns for the pocket task.
        FileNotFoundError: If the source is neither a known name nor an existing file or folder.
        ImportError: If the source needs `datasets` and it is not installed.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1 problem")
    if unknown := set(columns or ()) - set(COLUMNS):
        raise ValueError(f"columns for {sorted(unknown)}: expected fields among {sorted(COLUMNS)}")
    name = str(source)
    if name == "pocket":
        if columns:
            raise ValueError(
                f"columns {dict(columns)}: the pocket task has none; they are for files and "
                "benchmarks"
            )
        return pocket_problems(100 if limit is None else limit, split=split, seed=seed)
    if name in SHIPPED:
        rows, label = shipped_rows(name, split), name
    elif name in BENCHMARKS:
        rows, label = hub_rows(name, split), name
    else:
        rows, label = local_rows(Path(source), split), Path(source).stem
    given_columns = {field: (column,) for field, column in (columns or {}).items()}
    problems = [
        _problem(row, f"{source}, problem {i}", label, split, {**COLUMNS, **given_columns})
        for i, row in enumerate(islice(rows, limit))
    ]
    if not problems:
        raise ValueError(f"{source}: no problems in it; expected one row per problem")
    return problems


def _first_value(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str | None:
    """The text or number in the first column that a row has; NaN stands for nothing."""
    for column in columns:
        value = row.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"{where}: column {column!r} holds {value!r:.60}, a {type(value).__name__}; "
                "expected text or a number"
            )
        return str(value)
    return None


def _problem(
    row: Mapping[str, Any],
    where: str,
    source: str,
    split: str,
    columns: Mapping[str, Sequence[str]],
) -> Problem:
    values = {field: _first_value(row, names, where) for field, names in columns.items()}
    for field, value in values.items():
        require_writable(value or "", f"{where}: its {field}")
    question, answer, solution = (values[name] for name in ("question", "answer", "solution"))
    if question is None or not question.strip():
        raise ValueError(
            f"{where}: no question; expected a column {' or '.join(columns['question'])}, "
            f"found {sorted(row)}. Name yours with columns={{'question': ...}}, or with "
            "--question-column"
        )
    tests = None
    if row.get("public_test_cases"):
        try:
            tests = CodeTests.from_row(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        question, answer = code_question(question, tests.starter_code), answer or ""
    if answer is not None and GSM8K_MARK in answer:
        ending = answer.rpartition(GSM8K_MARK)[2].strip()
        if ending and "\n" not in ending:
            solution, answer = answer, ending
    if answer is None and solution is not None:
        answer = boxed_answer(solution)
    if tests is None and (answer is None or not answer.strip()):
        raise ValueError(
            f"{where}: no gold answer; expected a column {' or '.join(columns['answer'])}, or a "
            f"solution that ends in \\boxed{{...}}, found {sorted(row)}. Name yours with "
            "columns={'answer': ...}, or with --answer-column"
        )
    return Problem(
        id=values["id"] or where.rsplit(" ", 1)[-1],
        question=question,
        answer=answer or "",
        solution=solution,
        source=source,
        split=values["split"] or split,
        level=values["level"],
        tests=tests,
    )
