import os
import signal
import subprocess
import sys
import time

import pytest

from mi_lens.common.files import (
    append_jsonl,
    drop_torn_line,
    read_jsonl,
    replacing,
    write_json,
    write_jsonl,
)


def test_rows_come_back_as_written(tmp_path):
    rows = [{"text": "line\nbreak\u2028\x85 é", "n": 1}, {"text": "", "n": None}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    append_jsonl(tmp_path / "a.jsonl", {"n": 2})
    assert read_jsonl(tmp_path / "a.jsonl") == [*rows, {"n": 2}]


def test_a_malformed_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2\n')
    with pytest.raises(ValueError, match=r"line 3: not JSON"):
        read_jsonl(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1: a list, expected a JSON object"):
        read_jsonl(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_nan_is_refused_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert (tmp_path / "a.json").read_text().split() == ["{", '"x":', "1", "}"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    drop_torn_line(path)
    assert not path.exists()
    write_jsonl(path, [{"a": 1}, {"a": 2}])
    whole = path.read_bytes()
    drop_torn_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-3])
    drop_torn_line(path)
    assert read_jsonl(path) == [{"a": 1}]


def test_appends_survive_kill(tmp_path):
    path = tmp_path / "a.jsonl"
    program = (
        "import sys; from mi_lens.common.files import append_jsonl\n"
        "for n in range(10**9): append_jsonl(sys.argv[1], {'n': n, 'filler': 'x' * 20000})"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        while not path.exists() or path.stat().st_size < 200_000:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    drop_torn_line(path)
    rows = read_jsonl(path)
    assert [row["n"] for row in rows] == list(range(len(rows)))
    assert len(rows) >= 9
