"""Runs programs against the tests of their problem."""

import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.grading.sandbox import Limits, run_program

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class TestReport:
    """The result of a program's tests.

    Attributes:
        passed: Number of tests that passed before the first one failed.
        total: Number of tests of the problem.
        failure: Which test failed first, and why; None if all passed.
    """

    passed: int
    total: int
    failure: str | None

    __test__ = False  # pytest must not collect this class


def run_tests(program: str, tests: CodeTests, limits: Limits | None = None) -> TestReport:
    """Runs a program in the sandbox on one test after another, until one fails.

    A printed output is right if `same_output` says so. A returned value is right if it equals the
    expected value as JSON.

    Raises:
        RuntimeError: If no sandbox works on this machine.
    """
    all_tests = (*tests.public, *tests.private)
    total = len(all_tests)
    for number, test in enumerate(all_tests):
        outcome = run_program(program, test.input, function=tests.function, limits=limits)
        failure = outcome.failure
        if failure is None:
            same = same_output if tests.function is None else _same_json
            failure = None if same(outcome.output, test.output) else "wrong output"
        if failure is not None:
            return TestReport(number, total, f"test {number + 1} of {total}: {failure}")
    return TestReport(total, total, None)


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs have the same lines of the same words.

    Numbers in the digits 0 to 9 are compared by value ("1.0" equals "1"). White space between words
    and at the ends is ignored.
    """
    ours, theirs = (text.strip().split("\n") for text in (printed, expected))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(ours: str, theirs: str) -> bool:
    expected = theirs.split()
    words = ours.split(None, len(expected))  # a line may hold millions
    return len(words) == len(expected) and all(
        map(_same_word, [word.strip() for word in words], expected)
    )


def _same_word(a: str, b: str) -> bool:
    if a == b:
        return True
    if NUMBER.fullmatch(a) is None or NUMBER.fullmatch(b) is None:
        return False  # Decimal would also read "2_5" and the digits of other scripts
    try:
        return Decimal(a) == Decimal(b)
    except InvalidOperation:  # an exponent of twenty digits
        return False


def _same_json(returned: str, expected: str) -> bool:
    try:
        return json.loads(returned) == json.loads(expected)
    except (ValueError, RecursionError):  # no JSON, a number of over 4,300 digits, or "[" * 10**5
        return False
