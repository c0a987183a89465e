import pytest

from mi_lens.common.files import (
    read_jsonl,
    replacing,
    write_json,
    write_jsonl,
)


def test_rows_come_back_as_written(tmp_path):
    rows = [{"text": "line\nbreak\u2028\x85 é", "n": 1}, {"text": "", "n": None}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows


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
