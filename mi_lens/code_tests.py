"""Tests of a programming problem, as LiveCodeBench keeps them, and programs run against them."""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from mi_lens.sandbox import Limits, run_program

LARGEST = 1 << 30  # bytes of one problem's tests; the largest of LiveCodeBench have some 10^8
STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
SILENT_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "STOP"}


@dataclass(frozen=True)
class CodeTest:
    """What goes into a program and what must come out.

    Attributes:
        input: Text for stdin; for a function, its arguments as JSON, one a line.
        output: Text on stdout; for a function, what it returns as JSON.
    """

    input: str
    output: str


@dataclass(frozen=True)
class CodeTests:
    """The tests of one problem.

    Attributes:
        public: Those that the question shows.
        private: Those that it does not.
        function: The name of the function to call; None if the program reads stdin.
        starter_code: What the question gives to begin with, or "".
    """

    public: tuple[CodeTest, ...]
    private: tuple[CodeTest, ...] = ()
    function: str | None = None
    starter_code: str = ""

    def __post_init__(self):
        if not self.public and not self.private:
            raise ValueError("no tests, public or private; expected at least one")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "CodeTests":
        """The tests that `dataclasses.asdict` made a mapping of."""
        tests = {
            name: tuple(CodeTest(**test) for test in fields[name]) for name in ("public", "private")
        }
        return cls(**{**fields, **tests})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "CodeTests":
        """The tests in a row of LiveCodeBench.

        Raises:
            ValueError: If they are in no known form, or mix functions with programs.
        """
        public, private = (_rows(row.get(f"{kind}_test_cases")) for kind in ("public", "private"))
        kinds = {test.get("testtype") for test in (*public, *private)}
        if len(kinds) > 1 or not kinds <= {"stdin", "functional"}:
            raise ValueError(f"test types {kinds}; expected all 'stdin' or all 'functional'")
        function = None
        if kinds == {"functional"}:
            metadata = row.get("metadata") or {}
            if isinstance(metadata, str):
                metadata = json.loads(metadata)
            function = metadata.get("func_name")
            if not function:
                raise ValueError("functional tests need the function's name, metadata['func_name']")
        both = [
            tuple(CodeTest(str(test["input"]), str(test["output"])) for test in tests)
            for tests in (public, private)
        ]
        return cls(*both, function=function, starter_code=row.get("starter_code") or "")


@dataclass(frozen=True)
class TestReport:
    """How a program did.

    Attributes:
        passed: Tests passed, in order, before one failed.
        total: Tests there are.
        failure: What the first failed one says; None if all passed.
    """

    passed: int
    total: int
    failure: str | None

    __test__ = False  # not pytest's


def run_tests(program: str, tests: CodeTests, limits: Limits | None = None) -> TestReport:
    """Runs a program in the sandbox on one test after another, up to the first it fails.

    A printed output counts as right if its lines are, with numbers compared by value ("1.0" is
    "1") and white space at the ends and between words passed over; a returned value, if it equals
    the expected one as JSON.
    """
    every = (*tests.public, *tests.private)
    for number, test in enumerate(every):
        outcome = run_program(program, test.input, function=tests.function, limits=limits)
        failure = outcome.failure
        if failure is None:
            same = same_output if tests.function is None else _same_json
            failure = None if same(outcome.output, test.output) else "wrong output"
        if failure is not None:
            return TestReport(number, len(every), f"test {number + 1} of {len(every)}: {failure}")
    return TestReport(len(every), len(every), None)


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs agree line by line and word by word, numbers by value."""
    ours, theirs = (
        [line.split() for line in text.strip().split("\n")] for text in (printed, expected)
    )
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(map(_same_word, a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def _same_word(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return Decimal(a) == Decimal(b)
    except InvalidOperation:  # a word, or a signalling NaN
        return False


def _same_json(returned: str, expected: str) -> bool:
    try:
        return json.loads(returned) == json.loads(expected)
    except json.JSONDecodeError:  # the program ended before its function returned
        return False


def _rows(tests: Any) -> list[dict[str, Any]]:
    """Tests as rows: of a list, of JSON text, or of compressed text."""
    if tests is None or tests == "":
        return []
    if isinstance(tests, str):
        tests = json.loads(tests if tests.lstrip().startswith("[") else unpacked(tests))
    if not isinstance(tests, list):
        raise ValueError(f"tests are a {type(tests).__name__}; expected a list of rows")
    return tests


def unpacked(text: str) -> str:
    """LiveCodeBench's private tests: JSON, as one pickled string, under zlib, in base64.

    Nothing is unpickled: a stream that is anything but one string is refused, and that string is
    taken out of it opcode by opcode.

    Raises:
        ValueError: If the text is not of that form, or unpacks to more than 1 GiB.
    """
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), LARGEST)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"tests {text[:40]!r}...: {error}; expected base64 of zlib") from None
    if not inflate.eof:
        raise ValueError(f"tests {text[:40]!r}... are cut off, or unpack to over {LARGEST} bytes")
    strings = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in STRING_OPCODES:
                strings.append(argument)
            elif opcode.name not in SILENT_OPCODES:
                raise ValueError(f"it holds the opcode {opcode.name}")
        (string,) = strings
    except ValueError as error:
        raise ValueError(
            f"tests {text[:40]!r}...: {error}; expected one pickled string, nothing else is read"
        ) from None
    return string
