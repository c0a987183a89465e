"""Records: every change of their bytes is noticed; what is damaged is named and set aside."""

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.common.files import write_json
from mi_lens.common.records import (
    DamagedError,
    append_record,
    continue_records,
    count_records,
    damaged_lines,
    read_lines,
    read_record,
    read_records,
    require_count,
    set_aside_foreign,
    verified,
    write_record,
    write_records,
)

ROWS = [
    {"n": 1, "text": "größer 𝄞\u2028", "x": 0.1 + 0.2},
    {"n": 2, "nested": {"a": [None, -0.0]}},
    {},
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: TEXT | st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(row=st.dictionaries(st.text('abc"\\é{},: ', max_size=6), JSON, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("records")
    write_record(folder / "run.json", row)
    assert read_record(folder) == row
    write_records(folder / "rows.jsonl", [row, row])
    append_record(folder / "rows.jsonl", row)
    assert read_records(folder / "rows.jsonl") == [row] * 3 == read_lines(folder / "rows.jsonl")


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_records(path, ROWS)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            if place == len(whole) - 1:  # without its end, the last line counts as unfinished
                assert read_records(path) == ROWS[:-1]
                continue
            with pytest.raises(DamagedError, match=r"rows\.jsonl, line "):
                read_records(path)
    write_record(tmp_path / "run.json", ROWS[0])
    whole = (tmp_path / "run.json").read_bytes()
    for place in range(len(whole) - 1):  # a space for the last line end changes nothing
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "run.json").write_bytes(flipped)
        with pytest.raises(DamagedError, match=r"run\.json"):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], b'{"n": 2}', lines[2]], "line 2: no checksum"),
        (lambda lines: [lines[0], lines[1].replace(b"2", b"3", 1), lines[2]], "line 2: altered"),
        (lambda lines: [lines[0] + lines[1], lines[2]], "line 1: altered"),
        (lambda lines: [lines[0][: len(lines[0]) // 2], *lines[1:]], "line 1: no checksum"),
        (lambda lines: [b"[" * 100_000, *lines], "line 1: no checksum"),
    ],
)
def test_altered_lines_are_named_and_set_aside(tmp_path, change, message):
    path = tmp_path / "rows.jsonl"
    write_records(path, ROWS)
    lines = change([line for line in path.read_bytes().split(b"\n") if line])
    path.write_bytes(b"\n".join(lines) + b'\n{"n": 4, "un')
    before = path.read_bytes()
    with pytest.raises(DamagedError, match=f"rows.jsonl, {message}"):
        read_records(path)
    (wrong,) = damaged_lines(path)
    assert message in wrong
    assert path.read_bytes() == before  # reading changes nothing
    with pytest.warns(UserWarning, match=f"{message}.*set aside in rows.jsonl.damaged"):
        kept = continue_records(path)
    assert kept
    assert all(row in ROWS for row in kept)
    aside = (tmp_path / "rows.jsonl.damaged").read_bytes().splitlines()
    assert len(aside) == 1
    assert aside[0] in lines
    assert read_records(path) == kept
    append_record(path, {"n": 5})
    assert continue_records(path) == [*kept, {"n": 5}]


def test_lines_of_others_need_no_checksum(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"checksum": "mine", "b": 2}')
    assert read_lines(path) == [{"a": 1}, {"checksum": "mine", "b": 2}]
    path.write_text('{"a": 1}\n' + "[" * 100_000)
    with pytest.raises(DamagedError, match="line 2: not JSON"):
        read_lines(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_lines(tmp_path / "none.jsonl")
    with pytest.raises(DamagedError, match="x: a list"):
        verified(b"[1]", "x", required=False)
    write_json(tmp_path / "run.json", {"a": 1})
    with pytest.raises(DamagedError, match="no checksum; it was altered since"):
        read_record(tmp_path)


def test_a_torn_last_line_is_no_record(tmp_path):
    path = tmp_path / "a.jsonl"
    assert continue_records(path) == read_records(path) == []
    assert not path.exists()
    write_records(path, [{"a": 1}, {"a": 2}])
    whole = path.read_bytes()
    assert continue_records(path) == [{"a": 1}, {"a": 2}]
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-3])
    assert read_records(path) == [{"a": 1}]
    assert count_records(path) == 1
    assert path.read_bytes() == whole[:-3]
    assert continue_records(path) == [{"a": 1}]
    assert path.read_bytes() == whole[: whole.index(b"\n") + 1]


def test_appends_survive_kill(tmp_path):
    path = tmp_path / "a.jsonl"
    program = (
        "import sys; from mi_lens.common.records import append_record\n"
        "for n in range(10**9): append_record(sys.argv[1], {'n': n, 'filler': 'x' * 20000})"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        while not path.exists() or path.stat().st_size < 200_000:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    rows = continue_records(path)
    assert [row["n"] for row in rows] == list(range(len(rows)))
    assert len(rows) >= 9


def test_a_line_that_repeats_an_earlier_one_is_dropped(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_records(path, [ROWS[0], ROWS[1], ROWS[0]])
    assert continue_records(path) == ROWS[:2] == read_records(path)
    assert continue_records(path) == ROWS[:2]


def test_records_of_another_run_are_set_aside(tmp_path):
    path = tmp_path / "rows.jsonl"
    set_aside_foreign(path, "trace", ["a"])  # it does not exist yet
    own, foreign = {"trace": "a", "text": "größer"}, {"trace": "b"}
    write_records(path, [foreign, own])
    set_aside_foreign(path, "trace", ["a", "b"])
    assert read_records(path) == [foreign, own]
    with pytest.warns(UserWarning, match=r"1 records are of another run .* of trace b"):
        set_aside_foreign(path, "trace", ["a"])
    assert read_records(path) == [own]
    assert read_records(tmp_path / "rows.jsonl.damaged") == [foreign]


def test_too_few_lines_of_a_finished_run_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_records(path, ROWS[:2])
    require_count(path, 2)
    with pytest.raises(DamagedError, match=r"rows\.jsonl: holds 2 of 3 records"):
        require_count(path, 3)
