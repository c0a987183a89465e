"""The 20 word problems that the package ships: consistent, distinct, and our own."""

import re

import pytest

from mi_lens.common.files import read_jsonl
from mi_lens.problems.answers import stated_answer
from mi_lens.problems.endings import ENDINGS, endings_of
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem, overlap
from mi_lens.runs.config import GenerateConfig

PROBLEMS = load_problems("grade-school")
EQUATION = re.compile(r"(\d+(?: [-+*/] \d+)+) = (\d+)")


def test_there_are_twenty_with_answers_of_their_own():
    assert len(PROBLEMS) == len({problem.key for problem in PROBLEMS}) == 20
    # Each of the others is a mismatched answer, and it takes 19 of them for a p-value of .05.
    assert len({problem.answer for problem in PROBLEMS}) == 20
    assert {(problem.source, problem.split) for problem in PROBLEMS} == {("grade-school", "test")}
    assert [problem.id for problem in load_problems("grade-school", limit=3)] == [
        f"grade-school-{number:02}" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_the_solution_computes_the_answer(problem: Problem):
    assert problem.solution is not None
    assert problem.solution.endswith(f" The answer is {problem.answer}.")
    assert stated_answer(problem.solution) == f"{problem.answer}."
    equations = EQUATION.findall(problem.solution)
    known = set(re.findall(r"\d+", problem.question))
    for left, right in equations:
        # The words of two questions hold a number: half, a year, twice and both.
        known |= {"2", "12", "4"} if re.search("twice|year|Four", problem.question) else set()
        assert set(re.findall(r"\d+", left)) <= known, left
        assert eval(left) == int(right)
        known.add(right)
    assert equations[-1][1] == problem.answer
    assert set(endings_of(problem, "solution_last")) == set(ENDINGS)


def test_none_is_of_a_benchmark(shared_data):
    files = sorted((shared_data / "bench").glob("*.jsonl"))
    assert len(files) > 3
    for file in files:
        rows = read_jsonl(file)
        questions = (row.get("question") or row.get("problem") or "" for row in rows)
        others = [Problem(str(i), question, "") for i, question in enumerate(questions)]
        assert overlap(PROBLEMS, others) == [], file


def test_they_have_one_split_and_stand_on_the_command_line(tmp_path):
    with pytest.raises(ValueError, match=r"grade-school: split 'train', expected 'test'"):
        load_problems("grade-school", split="train")
    config = GenerateConfig(out=tmp_path, problems="grade-school", limit=2)
    assert config.load_problems() == PROBLEMS[:2]
