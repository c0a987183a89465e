"""Commands of mi-lens in warm forked processes, which may be killed or run short of disk.

A command runs in the folder of its attempt, where all inputs lie under the same relative names. So
the records of two attempts differ in nothing that a path could change.
"""

import os
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.processes import CONTEXT, start

HANG = 120.0  # Seconds; no command of the campaign takes a tenth of this when the machine is quiet.
OUT = "run"
TRACEBACK = "Traceback (most recent call last)"

INPUTS = ["--model", "model", "--problems", "problems.jsonl", "--device", "cpu"]
SHORT = ["--max-new-tokens", "10", "--batch-size", "2"]
STEER = "Steer('vector.safetensors', at='all', inside_think=False, alpha=3.0)"
HOOKS = ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
# The four commands that write a folder; `--out` follows.
WRITERS: dict[str, list[str]] = {
    "generate": ["generate", *INPUTS, *SHORT, "--intervene", STEER],
    "analyze": ["analyze", *INPUTS, *SHORT, "--intervene", STEER, "--hook-names", *HOOKS],
    "evaluate": ["evaluate", *INPUTS, *SHORT, "--conditions", "baseline", f"steered={STEER}"],
    "sweep": ["sweep", "spec.yaml"],
}
SPEC: dict[str, Any] = {
    "models": ["model"],
    "problems": "problems.jsonl",
    "conditions": ["baseline", "steered{alpha}=" + STEER.replace("3.0", "{alpha}")],
    "grid": {"alpha": [3.0]},
    "max_new_tokens": 10,
    "unit": 2,
    "batch_size": 2,
    "device": "cpu",
}


def readers(name: str) -> list[list[str]]:
    """The commands that read the folder of a writer."""
    commands = [["status", OUT], ["report", OUT, "--out", "page.html"]]
    return [*commands, ["results", OUT]] if name == "sweep" else commands


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        command: Its arguments.
        status: Its exit status; minus the number of the signal that ended it; None if it hung.
        stdout: What it printed.
        stderr: What it printed on stderr.
        seconds: How long it ran.
    """

    command: tuple[str, ...]
    status: int | None
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        return f"mi-lens {' '.join(map(repr, self.command))} -> {self.status}"


class Running:
    """A command under way; its clock starts when the command line is handed to mi-lens.

    Args:
        command: Arguments of `mi-lens`.
        folder: The working directory.
        largest_file: Most bytes that a file may have (RLIMIT_FSIZE), or None.
        draws: Whether figures are drawn, which takes most of the time of a report.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        largest_file: int | None = None,
        draws: bool = False,
    ):
        self.command = tuple(command)
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
        self._read = [reader for reader, _ in pipes]
        writers = [writer for _, writer in pipes]
        self.process: BaseProcess = start(
            _run, list(command), folder, *writers, largest_file, draws
        )
        for writer in writers:
            writer.close()
        os.read(self._read[0].fileno(), 1)
        self._began = time.monotonic()

    def end(self, after: float | None = None, with_signal: int = signal.SIGKILL) -> Ended:
        """Waits until the command ends; a signal is sent to it after some seconds if given."""
        assert self.process.pid is not None
        self.process.join(HANG if after is None else after)
        if self.process.exitcode is None and after is not None:
            os.kill(self.process.pid, with_signal)
            self.process.join(HANG)
        status = self.process.exitcode
        self.process.kill()
        self.process.join()
        seconds = time.monotonic() - self._began
        stdout, stderr = map(_drained, self._read)
        return Ended(self.command, status, stdout, stderr, seconds)


def run(command: Sequence[str], folder: Path, **how: Any) -> Ended:
    """Runs a command to its end; see `Running`."""
    return Running(command, folder, **how).end()


def _drained(reader: Connection) -> str:
    """What is in a pipe; a grandchild may hold its other end open."""
    os.set_blocking(reader.fileno(), False)
    data = b""
    try:
        while part := os.read(reader.fileno(), 1 << 20):
            data += part
    except BlockingIOError:
        pass
    reader.close()
    return data.decode(errors="replace")


def _run(
    command: list[str],
    folder: Path,
    stdout: Connection,
    stderr: Connection,
    largest_file: int | None,
    draws: bool,
) -> None:
    """In the child. Output goes to pipes, which a limit on the size of files leaves alone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import mi_lens.report.page
    from mi_lens.cli import main

    os.chdir(folder)
    os.dup2(stderr.fileno(), 2)
    os.dup2(stdout.fileno(), 1)
    if not draws:
        mi_lens.report.page.run_images = lambda *_: []
        mi_lens.report.page.sweep_images = lambda *_: []
        mi_lens.report.page.comparison_image = lambda *_: None
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.write(1, b"\n")
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main(command)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
