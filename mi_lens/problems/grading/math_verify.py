"""Runs Math-Verify in a child process, which can be killed when it hangs.

Math-Verify's own timeouts raise an exception from an alarm. This works only on the main thread and
cannot interrupt all of sympy. Here the parent keeps the time instead: it kills a child that is
late, counts the answer as wrong for that reason, and starts a new child for the next answer.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHILD = Path(__file__).with_name("math_verify_child.py")
START_SECONDS = 60.0
LONGEST = 2_000  # characters; the benchmarks' gold answers have at most a tenth of this


@dataclass(frozen=True)
class Verdict:
    """Whether an answer equals the gold answer, and the reason for this verdict."""

    correct: bool
    reason: str


class Verifier:
    """Compares answers in one child process.

    The process starts with the first answer, and again after it was killed. Only one thread may
    use a verifier at a time.

    Args:
        seconds: Wall-clock time for one answer.
        memory: Bytes of address space for the child.
    """

    def __init__(self, seconds: float = 5.0, memory: int = 1 << 30):
        if seconds <= 0:
            raise ValueError(f"seconds={seconds}: expected a positive time for one answer")
        self.seconds, self.memory = seconds, memory
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def verify(self, answer: str, gold: str) -> Verdict:
        r"""Decides whether an answer equals the gold answer.

        Args:
            answer: LaTeX in `\boxed{...}` or `$...$`, or a line of text with a number in it.
            gold: LaTeX as a benchmark has it, without a box.

        Raises:
            RuntimeError: If the child process does not start.
        """
        for name, text in (("answer", answer), ("gold answer", gold)):
            if len(text) > LONGEST:
                return Verdict(False, f"the {name} has {len(text)} characters, over {LONGEST}")
        child = self._child or self._start()
        assert child.stdin is not None
        question = {"gold": gold, "answer": answer, "seconds": self.seconds}
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            return Verdict(**json.loads(self._line(child, self.seconds)))
        except TimeoutError:
            self.close()
            return Verdict(False, f"Math-Verify took over {self.seconds:g} s and was killed")
        except (EOFError, BrokenPipeError):
            self.close()
            return Verdict(False, "Math-Verify crashed or ran out of memory")
        except BaseException:  # after an interrupt the unread reply must not answer the next call
            self.close()
            raise

    def close(self) -> None:
        """Kills the child, if there is one."""
        child, self._child, self._unread = self._child, None, b""
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            _close(pipe)

    def _start(self) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as complaints:
            self._child = child = subprocess.Popen(
                [sys.executable, "-I", str(CHILD), str(self.memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,  # a keyboard interrupt goes to the parent only
            )
            try:
                self._line(child, START_SECONDS)
            except (TimeoutError, EOFError):
                self.close()
                complaints.seek(0)
                complaint = complaints.read().decode(errors="replace").strip()[-500:]
                raise RuntimeError(
                    f"the Math-Verify process did not start with memory={self.memory}; expected "
                    f"`import math_verify` to work in {sys.executable}: "
                    f"{complaint or 'it printed no error'}"
                ) from None
        return child

    def _line(self, child: subprocess.Popen[bytes], seconds: float) -> bytes:
        """Reads the child's next line.

        Raises:
            TimeoutError: If the line takes longer than `seconds`.
            EOFError: If the child has ended.
        """
        assert child.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                data = os.read(child.stdout.fileno(), 1 << 16)
                if not data:
                    raise EOFError
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):  # closing flushes, but the child no longer reads
        pipe.close()
