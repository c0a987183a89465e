"""Problems: a question, its gold answer, and where both came from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "gold", "final_answer")
SOLUTION_COLUMNS = ("solution", "worked_solution")
ID_COLUMNS = ("id", "unique_id", "idx", "question_id")
LEVEL_COLUMNS = ("level", "difficulty")


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
