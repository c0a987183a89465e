import csv
import json

import pytest

from mi_lens.cli import main
from mi_lens.common.parquet import write_table
from mi_lens.runs.check import check
from mi_lens.runs.config import ImportConfig
from mi_lens.runs.import_text import read_texts
from mi_lens.runs.status import status
from mi_lens.traces.trace_files import load_traces

ROWS = [
    {"problem": "What is 2 + 2?", "output": "So 4</think>4", "gold": "4", "label": True, "run": 3},
    {"problem": "What is 2 + 2?", "output": "So 4</think>4", "gold": "4", "label": True, "run": 3},
    {"problem": "What is 3 + 3?", "output": "So", "gold": "6", "label": False, "run": 0},
]
COLUMNS = ("response=output", "is_correct=label", "seed=run")


def written(path, rows):
    if path.suffix == ".parquet":
        write_table(rows, path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(path, *columns, **settings):
    return read_texts(ImportConfig(file=path, out=path.parent / "out", columns=columns, **settings))


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_every_kind_of_file_gives_the_same_traces(tmp_path, name):
    path = written(tmp_path / name, ROWS)
    traces = texts(path, *COLUMNS, think_open=True, model="m", condition="published")
    assert [t.text for t in traces] == [row["output"] for row in ROWS]
    assert [t.is_correct for t in traces] == [True, True, False]
    assert [t.seed for t in traces] == [3, 3, 0]
    assert [t.stop_reason for t in traces] == ["imported", "imported", "length"]
    assert {(t.model, t.condition.get("name")) for t in traces} == {("m", "published")}
    assert [t.require_problem("").answer for t in traces] == ["4", "4", "6"]
    assert len({t.id for t in traces}) == 3
    assert [t.id for t in traces] == [
        t.id for t in texts(written(tmp_path / "again.jsonl", ROWS), *COLUMNS, think_open=True,
                            model="m", condition="published")
    ]  # fmt: skip


def test_the_command(tmp_path, capsys):
    path = written(tmp_path / "t.jsonl", ROWS)
    command = ["import", str(path), "--columns", *COLUMNS, "--out", str(tmp_path / "run")]
    for _ in range(2):  # the same command continues its own folder
        main(command)
        assert "3 traces in" in (said := capsys.readouterr().out)
        assert "3 with the author's label, 0 cut off" in said
    traces = load_traces(tmp_path / "run" / "traces.jsonl")
    assert all(trace.text_only for trace in traces)
    assert str(status(tmp_path / "run")).startswith(
        "mi-lens import: imported on t.jsonl\n3 of 3 traces\nfinished: yes"
    )
    assert check(tmp_path / "run").damages == ()
    with pytest.raises(SystemExit):
        main([*command, "--think-open"])
    assert "think_open was False, now True" in capsys.readouterr().err
    written(path, ROWS[:2])
    with pytest.raises(SystemExit):
        main(command)
    assert "holds another run (content was" in capsys.readouterr().err


def test_a_lost_trace_is_noticed(tmp_path):
    path = written(tmp_path / "t.jsonl", ROWS)
    main(["import", str(path), "--columns", *COLUMNS, "--out", str(tmp_path / "run")])
    lines = (tmp_path / "run" / "traces.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "traces.jsonl").write_text("".join(lines[:2]))
    assert "lacks 1 of 3 traces" in check(tmp_path / "run").damages[0]
    with pytest.raises(ValueError, match="holds 2 of 3 records"):
        status(tmp_path / "run")


def test_responses_to_one_question_are_numbered_where_no_seed_is_given(tmp_path):
    rows = [{"question": q, "response": r} for q, r in ("ab", "ac", "bb", "ab")]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = read_texts(ImportConfig(file=file, out=tmp_path / "out"))
    assert [trace.seed for trace in traces] == [0, 1, 0, 2]
    assert len({trace.id for trace in traces}) == 4


def test_a_tokenizer_gives_token_ids(tmp_path):
    path = written(tmp_path / "t.jsonl", ROWS)
    traces = texts(path, *COLUMNS, tokenizer="pocket-reasoner", style="raw")
    assert [t.prompt for t in traces] == [row["problem"] for row in ROWS]
    assert all(len(trace) > 0 for trace in traces)
    assert len({t.id for t in traces}) == 3


def test_the_kind_of_think_block_may_be_set(tmp_path):
    path = written(tmp_path / "t.jsonl", ROWS)
    command = ["import", str(path), "--columns", *COLUMNS, "--out", str(tmp_path / "run")]
    main([*command, "--tokenizer", "pocket-reasoner", "--style", "raw", "--think", "none"])
    with pytest.raises(ValueError, match=r"think='thinks': expected 'auto' or one of \['gpt-oss'"):
        texts(path, *COLUMNS, tokenizer="pocket-reasoner", think="thinks")
    with pytest.raises(ValueError, match="cannot write '\\[THINK\\]'"):
        texts(path, *COLUMNS, tokenizer="pocket-reasoner", think="magistral")


def test_other_columns(tmp_path):
    row = {"question": "q", "response": "So", "finished": False, "level": 5, "problem_id": 7}
    (trace,) = texts(written(tmp_path / "t.jsonl", [row]))
    assert trace.stop_reason == "length"
    problem = trace.require_problem("")
    assert (problem.id, problem.level, problem.answer) == ("7", "5", "")
    assert trace.is_correct is None
    for reason in ("eos", "length"):
        named = {"question": "q", "response": "So", "stop_reason": reason, "seed": None}
        (trace,) = texts(written(tmp_path / "t.jsonl", [named]))
        assert trace.stop_reason == reason


GOOD = {"question": "q", "response": "r"}


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"response": "r"}, (), r"no column 'question'; found \['response'\]. Name yours, as in"),
        (GOOD | {"problem": "p"}, (), "may both hold the question; name one, as in"),
        (GOOD, ("gold=answer",), "no column 'answer' for gold; found"),
        (GOOD, ("gold",), "'gold'; expected a name and a column of the file"),
        (GOOD, ("answer=response",), "names are"),
        (GOOD | {"response": " "}, (), "row 2: column 'response' holds ' '; expected the response"),
        (GOOD | {"question": None}, (), "row 2: column 'question' holds None"),
        (GOOD | {"response": ["r"]}, (), "row 2: column 'response' holds .*; expected text"),
        (GOOD | {"is_correct": "yes"}, (), "row 2: column 'is_correct' holds 'yes'; expected true"),
        (GOOD | {"is_correct": 2}, (), "row 2: column 'is_correct' holds 2; expected true"),
        (GOOD | {"seed": 0.5}, (), "row 2: column 'seed' holds 0.5; expected a whole number"),
        (GOOD | {"seed": "x"}, (), "row 2: column 'seed' holds 'x'; expected a whole number"),
        (
            GOOD | {"stop_reason": "max"},
            (),
            "row 2: column 'stop_reason' holds 'max'",
        ),
        (GOOD | {"stop_reason": "eos", "finished": True}, (), "expected one of them"),
        (GOOD | {"response": "\ud800"}, (), "row 2: problem .*half of a character"),
        (GOOD | {"gold": "5"}, (), "row 2: problem .* has another question or gold answer"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, row, columns, message):
    first = {name: GOOD.get(name) for name in row}
    with pytest.raises(ValueError, match=message) as raised:
        texts(written(tmp_path / "t.jsonl", [first, row]), *columns)
    assert (
        message.startswith("'gold'")
        or message.startswith("names")
        or "t.jsonl" in str(raised.value)
    )


def test_files_without_rows(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file; give a JSON-lines"):
        texts(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no rows in it"):
        texts(written(tmp_path / "t.jsonl", []))
    (tmp_path / "t.jsonl").write_text('{"question": "q", "response": "r"}\n["r"]\n')
    with pytest.raises(ValueError, match="line 2: a list, expected a JSON object"):
        texts(tmp_path / "t.jsonl")


def test_real_texts(shared_data, tmp_path):
    name = "cvenhoff_deepseek-r1-distill-llama-8b.jsonl"
    traces = read_texts(ImportConfig(file=shared_data / "traces" / name, out=tmp_path))
    assert sum(trace.stop_reason == "length" for trace in traces) == 5
    assert len({trace.id for trace in traces}) == len(traces) == 45
