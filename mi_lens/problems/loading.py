"""Loads problems: the built-in task, a benchmark by name, or a file."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mi_lens.problems.answers import boxed_answer
from mi_lens.problems.arithmetic import pocket_problems
from mi_lens.problems.benchmarks import BENCHMARKS, hub_rows, local_rows
from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import code_question

# Where the benchmarks in common use keep each field, first match wins.
COLUMNS = {
    "id": ("unique_id", "id", "question_id", "idx"),
    "question": ("question", "problem", "question_content"),
    "answer": ("answer", "gold"),
    "solution": ("solution",),
    "level": ("level", "difficulty"),
    "split": ("split",),
}
GSM8K_ANSWER = re.compile(r"\n####\s*(.+?)\s*\Z")


def load_problems(
    source: str | Path,
    *,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> list[Problem]:
    r"""Loads problems from the built-in task, a benchmark on the hub, or a file.

    A row needs a question and a gold answer, under `columns` or under the names that benchmarks in
    common use have for them. GSM8K's "#### 18" ending and a final boxed answer in `solution` are
    understood. A row with LiveCodeBench's `public_test_cases` becomes a problem with tests, and
    its question is told in what form to answer.

    Args:
        source: "pocket"; a name in `mi_lens.problems.benchmarks.BENCHMARKS`, as "gsm8k"; the path
            of a JSON-lines, CSV or Parquet file; or a folder that `datasets` loads.
        limit: Takes the first so many; all, or 100 pocket problems, if None.
        split: Of the pocket task, the benchmark or the folder; for a file, of the rows that do not
            name their own in a column `split`.
        seed: Of the pocket task; others keep their order.
        columns: A field of `Problem` -> the column that holds it.

    Raises:
        ValueError: If there are no problems, or a row lacks a question or an answer.
        FileNotFoundError: If the source is neither a name nor a file.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1 problem")
    if unknown := set(columns or ()) - set(COLUMNS):
        raise ValueError(f"columns for {sorted(unknown)}: expected fields among {sorted(COLUMNS)}")
    name = str(source)
    if name == "pocket":
        return pocket_problems(100 if limit is None else limit, split=split, seed=seed)
    if name in BENCHMARKS:
        rows, label = hub_rows(name, split), name
    else:
        rows, label = local_rows(Path(source), split), Path(source).stem
    where = {field: (column,) for field, column in (columns or {}).items()}
    problems = [
        _problem(row, f"{source}, problem {i}", label, split, {**COLUMNS, **where})
        for i, row in enumerate(islice(rows, limit))
    ]
    if not problems:
        raise ValueError(f"{source}: no problems in it; expected one JSON object or row each")
    return problems


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    for column in names:
        if row.get(column) is not None:
            return str(row[column])
    return None


def _problem(
    row: Mapping[str, Any],
    where: str,
    source: str,
    split: str,
    columns: Mapping[str, Sequence[str]],
) -> Problem:
    found = {field: _first(row, names) for field, names in columns.items()}
    question, answer, solution = (found[name] for name in ("question", "answer", "solution"))
    if question is None or not question.strip():
        raise ValueError(
            f"{where}: no question; expected a column {' or '.join(columns['question'])}, "
            f"found {sorted(row)}"
        )
    tests = None
    if row.get("public_test_cases"):
        try:
            tests = CodeTests.from_row(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        question, answer = code_question(question, tests.starter_code), answer or ""
    if answer is not None and (worked := GSM8K_ANSWER.search(answer)):
        solution, answer = answer, worked.group(1)
    if answer is None and solution is not None:
        answer = boxed_answer(solution)
    if tests is None and (answer is None or not answer.strip()):
        raise ValueError(
            f"{where}: no gold answer; expected a column {' or '.join(columns['answer'])}, or a "
            f"solution that ends in \\boxed{{...}}, found {sorted(row)}"
        )
    return Problem(
        id=found["id"] or where.rsplit(" ", 1)[-1],
        question=question,
        answer=answer or "",
        solution=solution,
        source=source,
        split=found["split"] or split,
        level=found["level"],
        tests=tests,
    )
