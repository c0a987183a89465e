r"""Grading: the pocket task by its box, mathematics by Math-Verify, code by its tests.

    grade(trace.text, problem)                      # one answer
    grade_all(texts, problems, workers=2)           # many answers
    with Grader(workers=2) as grader: ...           # many answers, from any thread

The answer to a mathematics question is the last `\boxed{...}` of the reply. Without a box it is
what the reply states after "answer is", "answer:" or "####". Without that, and if the gold answer
is a number, it is the number in the reply's last sentence. A box inside of the think block counts
only if the reply has none of these. Both answers are written in one notation first
(`mi_lens.problems.notation`). Two equal texts and two integers are compared directly; every other
answer goes to Math-Verify in a child process (`mi_lens.problems.grading.math_verify`).

Math-Verify is generous. It counts as equal: 10 and 10 %; 0.333333 and 1/3; x = 5 and 5; the chain
"6 = 5" and its last part, 5. The reasoning before the answer is not graded.
"""

import atexit
import functools
import os
import queue
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from mi_lens.common.html import one_line, table, text_box
from mi_lens.common.progress import tracked
from mi_lens.problems.answers import boxed_answer, closing_number, code_block, given_answer
from mi_lens.problems.grading.math_verify import Verifier
from mi_lens.problems.grading.programs import run_tests
from mi_lens.problems.grading.sandbox import Limits, isolation
from mi_lens.problems.notation import differ_by_sign, normalised
from mi_lens.problems.problem import Problem

Method = Literal[
    "exact", "integer", "math-verify", "closing number", "tests", "no answer", "no gold"
]
INTEGER = re.compile(r"([+-]?)0*(\d+)", re.ASCII)
DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)", re.ASCII)


@dataclass(frozen=True)
class Grade:
    """The grade of one text.

    Attributes:
        correct: Whether the answer is right.
        extracted: The answer in the text: mathematics, or a program; None if there is none.
        method: How the grade was decided.
        reason: Why, in words.
    """

    correct: bool
    extracted: str | None
    method: Method
    reason: str

    def __repr__(self) -> str:
        answer = None if self.extracted is None else one_line(self.extracted, 60)
        right = "right" if self.correct else "wrong"
        return f"Grade({right}: {answer!r}, by {self.method}: {one_line(self.reason, 100)})"

    def _repr_html_(self) -> str:
        about = {
            "correct": "yes" if self.correct else "no",
            "decided by": self.method,
            "why": self.reason,
        }
        answer = "" if self.extracted is None else f"\n{text_box(self.extracted)}"
        return f"{table(about)}{answer}"


class Grader:
    """Grades texts with child processes that it keeps and reuses.

    Any thread may call it. As many answers as there are workers are verified at a time. A child
    process starts when an answer first needs it; comparing exact text needs none.

    Args:
        workers: Number of Math-Verify processes, and of threads in `grade_all`.
        seconds: Wall-clock time for one mathematical answer.
        memory: Bytes of address space for each Math-Verify process.
        limits: What a program may use in each of its tests.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        seconds: float = 5.0,
        memory: int = 1 << 30,
        limits: Limits | None = None,
    ):
        if workers < 1:
            raise ValueError(f"workers={workers}: expected at least 1")
        self.workers, self.limits = workers, limits or Limits()
        self._verifiers = [Verifier(seconds, memory) for _ in range(workers)]
        # Last in, first out: a second child process starts only while the first one is busy.
        self._free: queue.LifoQueue[Verifier] = queue.LifoQueue()
        for verifier in self._verifiers:
            self._free.put(verifier)

    def __enter__(self) -> "Grader":
        """The grader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the child processes."""
        self.close()

    def close(self) -> None:
        """Ends the child processes; the next answer that needs them starts new ones."""
        for verifier in self._verifiers:
            verifier.close()

    def grade(self, text: str, problem: Problem) -> Grade:
        """Grades what a model wrote for a problem.

        Args:
            text: The generated text, thinking included.
            problem: The problem, which has a gold answer or tests.

        Raises:
            ValueError: If the problem has neither a gold answer nor tests.
            RuntimeError: If the verifier or the sandbox cannot run on this machine.
        """
        if problem.tests is not None:
            return self._grade_code(text, problem)
        gold = problem.answer.strip()
        if not gold:
            raise ValueError(
                f"problem {problem.id} has neither a gold answer nor tests to grade by"
            )
        if problem.source == "pocket":
            return _by_text(boxed_answer(text), gold) or _no_answer("no boxed answer")
        extracted, boxed = given_answer(text)
        if extracted is None:
            return _by_closing_number(text, problem.question, gold)
        return self._grade_mathematics(extracted, boxed, gold)

    def _grade_mathematics(self, extracted: str, boxed: bool, gold: str) -> Grade:
        ours, theirs = normalised(extracted), normalised(gold)
        if ours == theirs:
            return Grade(True, extracted, "exact", "the gold answer's own text")
        if (a := _integer(ours)) and (b := _integer(theirs)):
            return Grade(
                a == b, extracted, "integer", f"{'the same' if a == b else 'other'} integer"
            )
        if differ_by_sign(ours, theirs):  # Math-Verify takes some of these for equal
            return Grade(False, extracted, "exact", "the gold answer's own text with another sign")
        verifier = self._free.get()
        try:
            verdict = verifier.verify(f"\\boxed{{{ours}}}" if boxed else ours, theirs)
        finally:
            self._free.put(verifier)
        return Grade(verdict.correct, extracted, "math-verify", verdict.reason)

    def grade_all(
        self, texts: Sequence[str], problems: Sequence[Problem], *, progress: bool = False
    ) -> list[Grade]:
        """Grades each text for its problem, with all workers; grades keep the order of texts.

        A problem that has neither a gold answer nor tests gives a grade by the method "no gold".

        Args:
            texts: The generated texts.
            problems: One per text.
            progress: Whether to show the progress on stderr (`mi_lens.generate`).
        """
        if len(texts) != len(problems):
            raise ValueError(
                f"{len(texts)} texts and {len(problems)} problems: expected one problem per text"
            )
        with ThreadPoolExecutor(self.workers) as pool:
            pairs = zip(texts, problems, strict=True)
            waiting = [pool.submit(self._grade_if_possible, *pair) for pair in pairs]
            return [each.result() for each in tracked(waiting, "grade", "text", progress)]

    def _grade_if_possible(self, text: str, problem: Problem) -> Grade:
        if problem.tests is None and not problem.answer.strip():
            return Grade(False, None, "no gold", "the problem has neither a gold answer nor tests")
        return self.grade(text, problem)

    def _grade_code(self, text: str, problem: Problem) -> Grade:
        assert problem.tests is not None
        program = code_block(text)
        if program is None:
            return _no_answer("no block of code after the thinking")
        report = run_tests(program, problem.tests, self.limits)
        reason = report.failure or f"passed all {report.total} tests"
        if isolation() == "limits":
            reason += "; run without isolation"
        return Grade(report.failure is None, program, "tests", reason)


def grade(text: str, problem: Problem) -> Grade:
    """Grades what a model wrote for a problem; see `Grader.grade`.

    All calls share one Math-Verify process, which starts when needed and ends with the interpreter.
    """
    return _shared_grader(os.getpid()).grade(text, problem)


def grade_all(
    texts: Sequence[str],
    problems: Sequence[Problem],
    *,
    workers: int = 2,
    progress: bool = False,
) -> list[Grade]:
    """Grades each text for its problem, with `workers` child processes; see `Grader.grade`."""
    with Grader(workers) as grader:
        return grader.grade_all(texts, problems, progress=progress)


@functools.cache
def _shared_grader(process: int) -> Grader:
    """One grader per process: a fork that used its parent's pipes would mix up the answers."""
    grader = Grader()
    atexit.register(lambda: os.getpid() == process and grader.close())
    return grader


def _by_closing_number(text: str, question: str, gold: str) -> Grade:
    wanted = normalised(gold)
    number = closing_number(text, question)
    if number is None or DECIMAL.fullmatch(wanted) is None:
        return _no_answer("no boxed answer, and none stated after the thinking")
    same = Decimal(normalised(number)) == Decimal(wanted)
    reason = f"{'the same' if same else 'another'} number in the last sentence"
    return Grade(same, number, "closing number", reason)


def _by_text(answer: str | None, gold: str) -> Grade | None:
    if answer is None:
        return None
    same = answer == gold
    return Grade(same, answer, "exact", f"{'the' if same else 'not the'} gold answer's own text")


def _integer(text: str) -> tuple[bool, str] | None:
    """Whether an integer is negative, and its digits; None if the text is not an integer."""
    match = INTEGER.fullmatch(text)
    if match is None:
        return None
    sign, digits = match.groups()
    return sign == "-" and digits != "0", digits


def _no_answer(reason: str) -> Grade:
    return Grade(False, None, "no answer", reason)
