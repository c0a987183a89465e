import pandas
import pytest

from mi_lens.common.parquet import read_table, write_table
from mi_lens.generation.generate import generate
from mi_lens.interventions.recycle import Recycle
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace_files import load_traces, save_traces


def test_rows_come_back_flat(tmp_path):
    path = tmp_path / "t.parquet"
    rows = [{"a": 1, "b": {"x": 2.5, "y": None}}, {"a": 3, "c": "text", "b": {"x": 1.0, "y": 4}}]
    write_table(rows, path)
    assert read_table(path) == [
        {"a": 1, "b.x": 2.5, "b.y": None, "c": None},
        {"a": 3, "b.x": 1.0, "b.y": 4, "c": "text"},
    ]
    assert list(pandas.read_parquet(path)["b.x"]) == [2.5, 1.0]


def test_a_torn_file_is_named_and_an_old_one_kept(tmp_path):
    path = tmp_path / "t.parquet"
    write_table([{"a": 1}], path)
    with pytest.raises(ValueError, match="no rows to write"):
        write_table([], path)
    assert read_table(path) == [{"a": 1}]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        read_table(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(tmp_path / "other.parquet")


def test_traces_as_parquet(tiny_model, tmp_path):
    problems = [Problem("p", "What is 2?", "2"), Problem("q", "Hi", "3", level="easy")]
    acts = Recycle(1, tuple(range(0, 380, 2)))
    traces = generate(tiny_model, problems, acts, max_new_tokens=6, progress=False)
    traces += generate(tiny_model, ["So?"], max_new_tokens=4, progress=False)
    save_traces(traces, tmp_path / "traces.parquet")
    assert load_traces(tmp_path / "traces.parquet") == traces
    table = pandas.read_parquet(tmp_path / "traces.parquet")
    assert [len(ids) for ids in table["token_ids"]] == [6, 6, 4]
