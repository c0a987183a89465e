"""Problems: a question, its gold answer or its tests, and where they came from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mi_lens.answers import boxed_answer
from mi_lens.benchmarks import BENCHMARKS, hub_rows, local_rows
from mi_lens.code_tests import CodeTests
from mi_lens.prompts import code_question

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
# LaTeX that changes how a question looks, not what it asks.
LAYOUT = re.compile(
    r"\\(?:(?:left|right|displaystyle)(?![a-zA-Z])|[,;:!()\[\]])|[$~\s{}]|[.,;:?!](?!\d)"
)


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer, or with tests.

    Attributes:
        id: Names the problem within its source.
        question: The text put to the model, without any template.
        answer: The gold answer, as text; "" where tests decide.
        solution: A worked solution that ends in the answer, where the source has one.
        source: The benchmark or file it came from.
        split: "train", "validation" or "test".
        level: Difficulty, in the source's own words.
        tests: What a program must pass, for a programming problem.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    source: str = ""
    split: str = "test"
    level: str | None = None
    tests: CodeTests | None = None

    def __post_init__(self):
        if isinstance(self.tests, dict):  # as it is in a file of traces
            object.__setattr__(self, "tests", CodeTests.from_json(self.tests))


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
        source: "pocket"; a name in `mi_lens.benchmarks.BENCHMARKS`, as "gsm8k"; the path of a
            JSON-lines, CSV or Parquet file; or a folder that `datasets` loads.
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
        from mi_lens.pocket import pocket_problems

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


def overlap(a: Sequence[Problem], b: Sequence[Problem]) -> list[tuple[Problem, Problem]]:
    """The pairs of problems of two sets whose questions have the same normalised text.

    Each problem of `a` is paired with the first such of `b`.
    """
    first: dict[str, Problem] = {}
    for problem in b:
        first.setdefault(normalised(problem.question), problem)
    keys = ((problem, normalised(problem.question)) for problem in a)
    return [(problem, first[key]) for problem, key in keys if key in first]


def normalised(question: str) -> str:
    r"""A question without case, white space, punctuation between words, and LaTeX's layout.

    \dfrac and \tfrac are \frac, and 2^{10} is 2^10. A reworded question is another question here.
    """
    plain = re.sub(r"\\[dt]frac", r"\\frac", question)
    return LAYOUT.sub("", plain).casefold()


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
