"""Problems: a question, its gold answer, and where both came from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_lens.files import read_jsonl
from mi_lens.grading import boxed_answer

# Where the benchmarks in common use keep each field, first match wins.
COLUMNS = {
    "id": ("unique_id", "id", "question_id", "idx"),
    "question": ("question", "problem"),
    "answer": ("answer", "gold"),
    "solution": ("solution",),
    "level": ("level", "difficulty"),
}
GSM8K_ANSWER = re.compile(r"\n####\s*(.+?)\s*\Z")


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer.

    Attributes:
        id: Names the problem within its source.
        question: The text put to the model, without any template.
        answer: The gold answer, as text.
        solution: A worked solution that ends in the answer, where the source has one.
        source: The benchmark or file it came from.
        split: "train", "validation" or "test".
        level: Difficulty, in the source's own words.
    """

    id: str
    question: str
    answer: str
    solution: str | None = None
    source: str = ""
    split: str = "test"
    level: str | None = None


def load_problems(
    source: str | Path, *, limit: int | None = None, split: str = "test", seed: int = 0
) -> list[Problem]:
    """Loads problems from the built-in task or a JSON-lines file.

    Args:
        source: "pocket", or the path of a JSON-lines file with a question (`question` or
            `problem`) and a gold answer (`answer` or `gold`; GSM8K's "#### 18" ending and a
            final boxed answer in `solution` are understood).
        limit: Takes the first so many; all of a file, or 100 pocket problems, if None.
        split: Of the pocket task; recorded for files.
        seed: Of the pocket task; files keep their order.

    Raises:
        ValueError: If there are no problems, or a row lacks a question or an answer.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: expected at least 1 problem")
    if str(source) == "pocket":
        from mi_lens.pocket import pocket_problems

        return pocket_problems(100 if limit is None else limit, split=split, seed=seed)
    path = Path(source)
    rows = read_jsonl(path)[:limit]
    if not rows:
        raise ValueError(f"{path}: no problems in it; expected one JSON object a line")
    return [_problem(row, f"{path}, problem {i}", path.stem, split) for i, row in enumerate(rows)]


def _first(row: Mapping[str, Any], field: str) -> str | None:
    for column in COLUMNS[field]:
        if row.get(column) is not None:
            return str(row[column])
    return None


def _problem(row: Mapping[str, Any], where: str, source: str, split: str) -> Problem:
    question, answer, solution = (_first(row, f) for f in ("question", "answer", "solution"))
    if question is None or not question.strip():
        raise ValueError(
            f"{where}: no question; expected a column {' or '.join(COLUMNS['question'])}, "
            f"found {sorted(row)}"
        )
    if answer is not None and (worked := GSM8K_ANSWER.search(answer)):
        solution, answer = answer, worked.group(1)
    if answer is None and solution is not None:
        answer = boxed_answer(solution)
    if answer is None or not answer.strip():
        raise ValueError(
            f"{where}: no gold answer; expected a column {' or '.join(COLUMNS['answer'])}, or a "
            f"solution that ends in \\boxed{{...}}, found {sorted(row)}"
        )
    return Problem(
        id=_first(row, "id") or where.rsplit(" ", 1)[-1],
        question=question,
        answer=answer,
        solution=solution,
        source=source,
        split=split,
        level=_first(row, "level"),
    )
