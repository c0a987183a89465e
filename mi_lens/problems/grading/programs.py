"""Programs run against the tests of their problem."""

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from mi_lens.problems.code_tests import CodeTests
from mi_lens.problems.grading.sandbox import Limits, run_program


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
