"""The tests of a programming problem, and how LiveCodeBench stores them."""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 1 << 30  # bytes of one problem's tests; LiveCodeBench's largest have about 10^8
STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
SILENT_OPCODES = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "STOP"}


@dataclass(frozen=True)
class CodeTest:
    """An input of a program, and the output that is expected of it.

    Attributes:
        input: Text for stdin; for a function, its arguments as JSON, one per line.
        output: Text on stdout; for a function, the value it returns as JSON.
    """

    input: str
    output: str


@dataclass(frozen=True)
class CodeTests:
    """The tests of one problem.

    Attributes:
        public: The tests that the question shows.
        private: The tests that the question does not show.
        function: The name of the function to call; None if the program reads stdin.
        starter_code: The code that the question asks to complete, or "".
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
        """Builds the tests from the mapping that `dataclasses.asdict` made of them."""
        tests = {
            name: tuple(CodeTest(**test) for test in fields[name]) for name in ("public", "private")
        }
        return cls(**{**fields, **tests})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "CodeTests":
        """Reads the tests in a row of LiveCodeBench.

        Raises:
            ValueError: If their form is unknown, or some call a function and others do not.
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


def _rows(tests: Any) -> list[dict[str, Any]]:
    """Tests as rows, from a list, from JSON text or from compressed text."""
    if tests is None or tests == "":
        return []
    if isinstance(tests, str):
        tests = json.loads(tests if tests.lstrip().startswith("[") else unpacked(tests))
    if not isinstance(tests, list):
        raise ValueError(f"tests are a {type(tests).__name__}; expected a list of rows")
    return tests


def unpacked(text: str) -> str:
    """The JSON text of LiveCodeBench's private tests.

    They are stored as one pickled string, compressed by zlib and encoded in base64. Nothing is
    unpickled, because that can run code: the string is read from the opcodes, and a pickle of
    anything but one string is refused.

    Raises:
        ValueError: If the text does not have that form, or unpacks to more than 1 GiB.
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
            f"tests {text[:40]!r}...: {error}; expected one pickled string and nothing else"
        ) from None
    return string
