"""Math-Verify in a child process: it can hang, so it must be possible to kill it.

Its own timeouts raise from an alarm, which works on the main thread only and not inside everything
that sympy does. Here the clock is the parent's: the child that is late is killed, the answer counts
as wrong with that reason, and the next answer gets a new child.
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
LONGEST = 2_000  # characters; no gold answer of a benchmark here has more than a tenth of that


@dataclass(frozen=True)
class Verdict:
    """Whether two pieces of mathematics are worth the same, and why that was said."""

    correct: bool
    reason: str


class Verifier:
    """One child process that compares answers, started when first asked and again when killed.

    Not for several threads at once.

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
        r"""Whether an answer is worth the gold answer.

        Args:
            answer: LaTeX in `\boxed{...}` or `$...$`, or a line of text with a number in it.
            gold: LaTeX as it stands in a benchmark, without a box.
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
        except BaseException:  # an interrupt leaves a reply unread: it must meet no other question
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
                start_new_session=True,  # an interrupt at the keyboard is the parent's to handle
            )
            try:
                self._line(child, START_SECONDS)
            except (TimeoutError, EOFError):
                self.close()
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()[-500:]
                raise RuntimeError(
                    f"the Math-Verify process did not start with memory={self.memory}; expected "
                    f"`import math_verify` to work in {sys.executable}: {said or 'it said nothing'}"
                ) from None
        return child

    def _line(self, child: subprocess.Popen[bytes], seconds: float) -> bytes:
        """The child's next line.

        Raises:
            TimeoutError: If it takes longer.
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
    with contextlib.suppress(BrokenPipeError):  # what was written last has no reader any more
        pipe.close()
