import json

import pytest

from mi_lens.grading import boxed_answer, is_correct
from mi_lens.problems import load_problems


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_of_common_benchmarks(tmp_path):
    path = write(
        tmp_path / "mixed.jsonl",
        {"question": "q0", "answer": "a + b\n#### 1,234"},
        {"problem": "q1", "solution": r"so \boxed{\frac{1}{2}}", "level": "Level 5"},
        {"problem": "q2", "answer": "7", "solution": "because", "unique_id": "test/7"},
        {"problem": "q3", "answer": 204, "id": 60},
    )
    problems = load_problems(path)
    assert [p.answer for p in problems] == ["1,234", r"\frac{1}{2}", "7", "204"]
    assert [p.id for p in problems] == ["0", "1", "test/7", "60"]
    assert problems[0].solution == "a + b\n#### 1,234"
    assert problems[1].level == "Level 5"
    assert {p.source for p in problems} == {"mixed"}
    assert [p.id for p in load_problems(path, limit=2)] == ["0", "1"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, r"problem 0: no question; expected a column question or problem"),
        ({"question": "  ", "answer": "1"}, r"problem 0: no question"),
        ({"question": "q"}, r"problem 0: no gold answer"),
        ({"question": "q", "answer": " "}, r"problem 0: no gold answer"),
        ({"question": "q", "solution": "no box"}, r"problem 0: no gold answer"),
    ],
)
def test_a_row_that_is_no_problem_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_problems(write(tmp_path / "a.jsonl", row))


def test_no_problems(tmp_path):
    with pytest.raises(ValueError, match="no problems in it"):
        load_problems(write(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match="limit=0: expected at least 1"):
        load_problems(write(tmp_path / "a.jsonl", {"question": "q", "answer": "a"}), limit=0)
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl: no such file"):
        load_problems(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("name", "count"),
    [("gsm8k_test", 1319), ("math500_test", 500), ("aime24_test", 30), ("aime25_test", 30)],
)
def test_real_benchmarks(shared_data, name, count):
    problems = load_problems(shared_data / "bench" / f"{name}.jsonl")
    assert len(problems) == count
    assert len({p.id for p in problems}) == count
    if name == "gsm8k_test":
        assert problems[0].answer == "18"
        assert problems[0].solution is not None
        assert problems[0].solution.endswith("#### 18")


def test_real_solutions_end_in_a_box(shared_data):
    problems = load_problems(shared_data / "bench" / "math_train12k_part.jsonl")
    assert len(problems) == 4500
    assert all(is_correct(p.solution or "", p.answer) for p in problems)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{ 2 }", "2"),
        (r"\boxed{\frac{a}{b}}.", r"\frac{a}{b}"),
        (r"\boxed{1", None),
        ("no box", None),
        ("", None),
        (r"\boxed{}", ""),
    ],
)
def test_boxed_answer(text, answer):
    assert boxed_answer(text) == answer
    assert is_correct(text, "") == (answer == "")
