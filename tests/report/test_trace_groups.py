import json
from pathlib import Path

import pytest

from mi_lens.report.trace_groups import read_groups
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import save_traces


def write(path: Path, *texts: str, model: str = "m") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    traces = [Trace.from_text(None, f"Q{i}", text, model=model) for i, text in enumerate(texts)]
    save_traces(traces, path)
    return path


def test_groups_go_by_the_names_that_tell_them_apart(tmp_path):
    one = write(tmp_path / "one" / "traces.jsonl", "a", "b")
    two = write(tmp_path / "two" / "traces.jsonl", "c")
    a, b = read_groups(one.parent, two)
    assert (a.name, b.name) == ("one", "two")
    assert (len(a.traces), a.problems, a.models, a.cut_off) == (2, 2, ["m"], 0)
    nested = [write(tmp_path / f"{top}/run/traces.jsonl", top) for top in ("x", "y")]
    assert [group.name for group in read_groups(*nested)] == ["x/run", "y/run"]
    table = write(tmp_path / "texts.parquet", "d", "e", "f")
    assert [group.name for group in read_groups(one, table)] == ["one", "texts.parquet"]


def test_the_units_of_a_sweep_are_one_group(tmp_path):
    for unit in ("a-0", "b-0"):
        write(tmp_path / "sweep" / "units" / unit / "traces.jsonl", unit)
    sweep, _ = read_groups(tmp_path / "sweep", write(tmp_path / "other.jsonl", "x"))
    assert [trace.text for trace in sweep.traces] == ["a-0", "b-0"]


def test_cut_off_texts_are_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", "<think>so it", "<think>so</think> 7")
    assert read_groups(path, write(tmp_path / "b.jsonl", "x"))[0].cut_off == 1


def test_errors_name_the_file_and_what_to_do(tmp_path):
    good = write(tmp_path / "run" / "traces.jsonl", "a", "b")
    other = write(tmp_path / "other.jsonl", "c")
    with pytest.raises(ValueError, match="are the same traces; give two groups"):
        read_groups(good, good.parent)
    with pytest.raises(ValueError, match="hold the same 2 traces"):
        read_groups(good, write(tmp_path / "copy.jsonl", "a", "b"))
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder; give a file"):
        read_groups(tmp_path / "nowhere", good)
    with pytest.raises(FileNotFoundError, match=r"no traces.jsonl.*inside it: .*run"):
        read_groups(tmp_path, good)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no traces.*or a folder that mi-lens"):
        read_groups(good, tmp_path / "empty")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"empty.jsonl: no traces in it"):
        read_groups(other, tmp_path / "empty.jsonl")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "?", "response": "!"}))
    with pytest.raises(ValueError, match=r"rows.jsonl, trace 1: not a trace.*use mi-lens import"):
        read_groups(other, tmp_path / "rows.jsonl")
