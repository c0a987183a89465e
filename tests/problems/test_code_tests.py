import base64
import dataclasses
import json
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.problems import code_tests
from mi_lens.problems.code_tests import CodeTest, CodeTests, unpacked
from mi_lens.problems.grading.programs import TestReport, run_tests, same_output

ROW = {"input": "1\n", "output": "2\n", "testtype": "stdin"}


def packed(stream: bytes) -> str:
    return base64.b64encode(zlib.compress(stream)).decode()


def pickled_string(text: str) -> bytes:
    """What protocol 4 makes of a string, written by hand."""
    data = text.encode("utf-8", "surrogatepass")
    frame = b"X" + len(data).to_bytes(4, "little") + data + b"\x94."
    return b"\x80\x04\x95" + len(frame).to_bytes(8, "little") + frame


@given(st.text())
def test_a_packed_string_comes_back(text):
    assert unpacked(packed(pickled_string(text))) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not base64!", "expected base64 of zlib"),
        (base64.b64encode(b"not zlib").decode(), "expected base64 of zlib"),
        (packed(pickled_string("x"))[:-8], "are cut off, or unpack to over"),
        (packed(b"cos\nsystem\n(S'touch /nowhere'\ntR."), "the opcode GLOBAL"),
        (packed(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "the opcode STACK_GLOBAL"),
        (packed(b"\x80\x04K\x01."), "the opcode BININT1"),
        (packed(b"\x80\x04\x8c\x01a\x8c\x01b."), "expected one pickled string"),
        (packed(b"\x80\x04."), "expected one pickled string"),
        (packed(pickled_string("x")[:-2]), "expected one pickled string"),
    ],
)
def test_nothing_but_a_string_is_read(text, message):
    with pytest.raises(ValueError, match=message):
        unpacked(text)


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(code_tests, "LARGEST", 1000)
    with pytest.raises(ValueError, match="unpack to over 1000 bytes"):
        unpacked(packed(pickled_string("x" * 2000)))


@pytest.mark.parametrize(
    "form", [lambda t: t, json.dumps, lambda t: packed(pickled_string(json.dumps(t)))]
)
def test_forms_of_a_row(form):
    row = {"public_test_cases": form([ROW]), "private_test_cases": form([ROW, ROW])}
    tests = CodeTests.from_row(row)
    assert tests == CodeTests((CodeTest("1\n", "2\n"),), (CodeTest("1\n", "2\n"),) * 2)
    assert CodeTests.from_json(json.loads(json.dumps(dataclasses.asdict(tests)))) == tests


def test_functions_in_a_row():
    call = ROW | {"testtype": "functional"}
    row = {"public_test_cases": json.dumps([call]), "starter_code": "class Solution: ..."}
    for metadata in ('{"func_name": "add"}', {"func_name": "add"}):
        tests = CodeTests.from_row(row | {"metadata": metadata})
        assert (tests.function, tests.starter_code) == ("add", "class Solution: ...")
    with pytest.raises(ValueError, match="need the function's name"):
        CodeTests.from_row(row | {"metadata": "{}"})
    with pytest.raises(ValueError, match="expected all 'stdin' or all 'functional'"):
        CodeTests.from_row({"public_test_cases": [ROW, call]})
    with pytest.raises(ValueError, match="no tests, public or private"):
        CodeTests.from_row({"public_test_cases": "[]", "private_test_cases": None})


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        (" 1  2 \r\n", "1 2", True),
        ("1.0 2", "1 2.00", True),
        ("0.1", "0.10000001", False),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("yes", "YES", False),
        ("nan", "0", False),
        ("sNaN", "1", False),
        ("2_5", "25", False),
        ("٢٥", "25", False),
        ("25", "٢٥", False),
        ("２５.0", "25", False),
        ("+2.5e1 .5 5.", "25 0.5 5", True),
        ("1e99999999999999999999", "1", False),
        ("1e999999999999", "10e999999999998", True),
        ("1 2 3 ", "1 2", False),
        ("1 2", "1 2 3", False),
        ("", "", True),
        ("", "1", False),
    ],
)
def test_same_output(printed, expected, same):
    assert same_output(printed, expected) == same


@pytest.mark.parametrize("printed", ["1 " * (8 << 20), "1\n" * (8 << 20), "1" * (16 << 20) + "x"])
def test_much_output_is_compared_in_little_memory(printed):
    tracemalloc.start()
    try:
        assert not same_output(printed, "1 1\n1")
        assert tracemalloc.get_traced_memory()[1] < 8 * len(printed)
    finally:
        tracemalloc.stop()


def test_tests_stop_at_the_first_failure():
    tests = CodeTests(
        (CodeTest("1", "1"),), private=(CodeTest("2", "2"), CodeTest("3", "3"), CodeTest("4", "4"))
    )
    assert run_tests("print(min(2, int(input())))", tests) == TestReport(
        2, 4, "test 3 of 4: wrong output"
    )
    assert run_tests("print(input())", tests) == TestReport(4, 4, None)
