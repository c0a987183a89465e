import csv
import dataclasses
import json

import jaxtyping
import pytest

from mi_lens.common.files import read_jsonl
from mi_lens.problems import benchmarks
from mi_lens.problems.answers import is_correct
from mi_lens.problems.code_tests import CodeTest, CodeTests
from mi_lens.problems.loading import load_problems
from mi_lens.problems.problem import Problem, normalised, overlap
from mi_lens.runs.config import GenerateConfig
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import trace_from_row, trace_to_row


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


def test_columns_by_name(tmp_path):
    rows = [
        {"ask": "q0", "want": 3, "hard": "5", "question": "no", "split": "train"},
        {"ask": "q1", "want": 4},
    ]
    problems = load_problems(
        write(tmp_path / "own.jsonl", *rows),
        columns={"question": "ask", "answer": "want", "level": "hard"},
    )
    assert problems == [
        Problem("0", "q0", "3", source="own", split="train", level="5"),
        Problem("1", "q1", "4", source="own"),
    ]
    with pytest.raises(ValueError, match="no question; expected a column prompt, found"):
        load_problems(tmp_path / "own.jsonl", columns={"question": "prompt"})
    with pytest.raises(ValueError, match=r"columns for \['gold'\]: expected fields among"):
        load_problems(tmp_path / "own.jsonl", columns={"gold": "want"})


def test_files_of_every_kind_say_the_same(tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [
        {"problem": 'a "quoted",\n$x$', "answer": "1", "level": "Level 2"},
        {"problem": "b", "answer": "1.50", "level": None},
    ]
    paths = [tmp_path / f"set.{ending}" for ending in ("jsonl", "csv", "parquet")]
    write(paths[0], *rows)
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(arrow.Table.from_pylist(rows), paths[2])
    first, *others = map(load_problems, paths)
    assert [(p.question, p.answer, p.level) for p in first] == [tuple(r.values()) for r in rows]
    assert all(other == first for other in others)


def test_a_csv_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "set.csv"
    path.write_bytes(b"\xef\xbb\xbfquestion,answer\n1 + 1?,2\n")
    (problem,) = load_problems(path)
    assert (problem.question, problem.answer) == ("1 + 1?", "2")


class Hub:
    """What `datasets.load_dataset` would be asked, and rows of an answer."""

    def __init__(self):
        self.asked = []

    def load_dataset(self, path, config, *, split, **more):
        self.asked.append((path, config, split, more))
        return [{"problem": f"{path} {config}", "answer": "1", "solution": "s"}]


@pytest.mark.parametrize(
    ("name", "split", "asked", "parts"),
    [
        ("gsm8k", "train", ("openai/gsm8k", "main", "train"), 1),
        ("math500", "test", ("HuggingFaceH4/MATH-500", None, "test"), 1),
        ("math-train", "train", ("EleutherAI/hendrycks_math", "algebra", "train"), 7),
        ("aime24", "test", ("HuggingFaceH4/aime_2024", None, "train"), 1),
        ("aime25", "test", ("math-ai/aime25", None, "test"), 1),
        ("livecodebench", "test", ("json", None, "train"), 1),
    ],
)
def test_benchmarks_of_the_hub(monkeypatch, name, split, asked, parts):
    hub = Hub()
    monkeypatch.setattr(benchmarks, "_datasets", lambda: hub)
    problems = load_problems(name, split=split)
    assert (len(problems), problems[0].source, problems[0].split) == (parts, name, split)
    assert hub.asked[0][:3] == asked
    assert all(file.startswith("hf://") for file in hub.asked[0][3].get("data_files", []))
    assert len(load_problems(name, split=split, limit=1)) == 1
    with pytest.raises(ValueError, match="split 'validation', expected one of"):
        load_problems(name, split="validation")


def test_a_folder_of_a_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "own"
    folder.mkdir()
    write(folder / "train.jsonl", {"question": "q0", "answer": "a"})
    write(folder / "test.jsonl", {"question": "q1", "answer": "b"})
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    assert [p.question for p in load_problems(folder, split="train")] == ["q0"]
    assert load_problems(folder) == [Problem("0", "q1", "b", source="own")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: a folder whose problems `datasets` cannot load"):
        load_problems(tmp_path / "empty")


def test_programming_problems(shared_data):
    bench = shared_data / "bench"
    first = load_problems(bench / "livecodebench_release_v1_first5.jsonl")
    assert [(p.id, p.level) for p in first][::3] == [("1873_A", "easy"), ("1883_B", "medium")]
    tests = [p.tests for p in first if p.tests is not None]
    assert [len(t.private) for t in tests] == [4, 0, 0, 0, 0]
    assert all("reads its input from stdin" in p.question for p in first)
    atcoder = load_problems(bench / "livecodebench_v5_atcoder_public60.jsonl")
    assert len(atcoder) == 60
    assert all(p.tests is not None and p.tests.public for p in atcoder)


def test_tests_survive_a_trace(tokenizer):
    tests = CodeTests((CodeTest("1", "2"),), function="f", starter_code="def f(n): ...")
    problem = Problem("c", "q", "", tests=tests)
    trace = Trace.from_text(tokenizer, problem, "text")
    row = json.loads(json.dumps(trace_to_row(trace)))
    jaxtyping.config.update("jaxtyping_disable", True)  # a file's row is no typed value yet
    try:
        assert trace_from_row(row) == trace
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert dataclasses.asdict(Problem("p", "q", "a"))["tests"] is None


def test_tests_in_a_file_are_named_when_bad(tmp_path):
    row = {"question_content": "q", "public_test_cases": "[{}]"}
    with pytest.raises(ValueError, match=r"code\.jsonl, problem 0: test types"):
        load_problems(write(tmp_path / "code.jsonl", row))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("What is $x + 1$?", "what is  x+1 ?", True),
        (r"Find $\dfrac{1}{2}\left(x\right)$.", r"Find \(\frac{1}{2}(x)\).", True),
        ("What is x + 1?", "What is x - 1?", False),
        (r"Is \leftarrow an arrow?", "Is arrow an arrow?", False),
        ("12 apples", "1.2 apples", False),
    ],
)
def test_overlap(a, b, same):
    assert (normalised(a) == normalised(b)) == same
    left, right = Problem("a", a, "1"), Problem("b", b, "1")
    assert overlap([left], [Problem("x", "else", "1"), right, right]) == [(left, right)] * same


def test_real_sets_do_not_overlap(shared_data):
    sets = {
        name: load_problems(shared_data / "bench" / f"{name}.jsonl")
        for name in ("math500_test", "math_train12k_part", "aime24_test", "aime25_test")
    }
    for name, problems in sets.items():
        assert len(overlap(problems, problems)) == len(problems)
        for other in sets.keys() - {name}:
            assert overlap(problems, sets[other]) == []
    path = shared_data / "traces" / "aime25_QwQ-32B.jsonl"
    asked = [Problem(t["id"], t["question"], t["gold"]) for t in read_jsonl(path)]
    shared = overlap(asked, sets["aime25_test"])
    assert all(a.answer == b.answer for a, b in shared)
    assert len(shared) == 5  # of 13: the others are worded otherwise, or draw a figure


def test_columns_of_the_command_line(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt,gold truth\n1 + 1?,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no question; .*--question-column"):
        GenerateConfig(out=tmp_path, problems=str(path)).load_problems()
    named = GenerateConfig(
        out=tmp_path, problems=str(path), question_column="prompt", answer_column="gold truth"
    )
    (problem,) = named.load_problems()
    assert (problem.question, problem.answer) == ("1 + 1?", "2")
    with pytest.raises(ValueError, match=r"no gold answer; .*--answer-column"):
        GenerateConfig(out=tmp_path, problems=str(path), question_column="prompt").load_problems()
    with pytest.raises(ValueError, match="the pocket task has none"):
        GenerateConfig(out=tmp_path, question_column="prompt").load_problems()


def test_long_answers_of_gsm8k_take_no_time(tmp_path):
    """Their ends were looked for in quadratic time: 200 kB of spaces took minutes."""
    hostile = "1 + 1 = 2\n####" + " x" + " " * 200_000 + "y"
    path = write(
        tmp_path / "gsm8k.jsonl",
        {"question": "q0", "answer": "so\n#### 7\nno, it is\n#### 1,234  \n"},
        {"question": "q1", "answer": hostile},
        {"question": "q2", "answer": "a\n#### 3\nwhich ends it"},
    )
    assert [len(p.answer) for p in load_problems(path)] == [5, 200_002, 22]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "answer": ["7"]}, r"column 'answer' holds \['7'\], a list"),
        ({"question": {"text": "q"}, "answer": "7"}, r"column 'question' holds .* a dict"),
        ({"question": "q", "answer": float("nan")}, "no gold answer"),
        ({"question": "q \ud800", "answer": "7"}, r"its question holds '\\ud800' at character 2"),
        ({"question": "q", "answer": "\udfff"}, r"its answer holds '\\udfff'"),
    ],
)
def test_values_that_are_no_text_are_refused(row, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        load_problems(path)


def test_other_encodings_and_long_fields(tmp_path):
    for name, text in (
        ("a.csv", "question,answer\n1 + 1 für,2\n"),
        ("a.jsonl", '{"question": "ü"}'),
    ):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"{name}: not UTF-8 \(.*; save it as UTF-8"):
            load_problems(tmp_path / name)
    long = "x" * 300_000
    (tmp_path / "long.csv").write_text(f'question,answer,solution\nq,2,"{long}\nsecond line"\n')
    (problem,) = load_problems(tmp_path / "long.csv")
    assert problem.solution == f"{long}\nsecond line"
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        load_problems(tmp_path / "cut.parquet")
