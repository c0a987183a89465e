"""A sandbox for programs that nobody has reviewed.

A program runs in its own process and session. It gets an empty temporary folder as its working
folder and home, a minimal environment, and limits that it cannot raise. If the caller is root, the
program runs as a user that nobody else is. In addition it runs inside the first of these that
works on this machine (see `isolation`):

  bubblewrap  no network; sees only its own processes, so that it cannot send signals to others;
              sees only its own folder and the files of Python and of the system; ends with all
              processes that it started
  unshare     the same, by tools that most systems have
  limits      only if the environment variable MI_LENS_TRUST_PROGRAMS is "1", and with a warning.
              The program can use the network, and read and write what its user may. If the caller
              is not root, that is the caller: the program can kill the caller and the caller's
              other processes, change the caller's files, and outlive its run.

The sandbox does not protect against: bugs in the kernel; side channels; a program that reads the
folders of Python or world-readable files of the system; a program that fills the disk with many
files, each below the limit, until its time is over; a program that slows down the machine. Memory
is limited per process, so a program may use that limit once per process it may have. This is
enough for code that a model wrote to solve a problem, but not for code written to break out.
It needs Linux.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from mi_lens.problems.grading.enclosures import Isolation, enclosed, user_of_its_own
from mi_lens.problems.grading.leftovers import kill_all_of, remove_folder

CHILD = Path(__file__).with_name("sandbox_child.py")
AGREEMENT = "MI_LENS_TRUST_PROGRAMS"
WITHOUT_ISOLATION = {
    True: "use the network, read files that all users may read, and leave files in /tmp",
    False: "kill your processes, read and change your files, use the network, and outlive its run",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use.

    Attributes:
        seconds: Wall-clock time, including the start of the interpreter.
        cpu_seconds: Processor time per process, in whole seconds.
        memory: Bytes of address space per process.
        file_size: Bytes per file, and bytes of printed output.
        processes: Processes and threads of the program. Two may be the sandbox's own. Before Linux
            5.14, if the caller is not root, all other processes of the caller count too.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    file_size: int = 16 << 20
    processes: int = 64

    def __post_init__(self):
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value}: expected a positive limit")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        output: What the program printed, or the value that its function returned, as JSON.
        errors: The end of what the program printed to stderr.
        failure: Why the run failed; None if it succeeded.
        seconds: Wall-clock time.
        isolation: What the program ran inside of.
    """

    output: str
    errors: str
    failure: str | None
    seconds: float
    isolation: Isolation


def run_program(
    program: str, stdin: str = "", *, function: str | None = None, limits: Limits | None = None
) -> Outcome:
    """Runs a Python program, or calls one of its functions, in the sandbox.

    Args:
        program: Source text. It can use the names of collections, itertools, math, typing and
            similar modules without an import, as is usual for competition programs.
        stdin: Text for stdin; for a function, its arguments as JSON, one per line.
        function: The name of a method of the program's class `Solution`, or of a function if the
            program has no such class. None runs the program itself.
        limits: What the run may use.

    Raises:
        RuntimeError: If no isolation works on this machine; see `isolation`.
    """
    return _run(isolation(), program, stdin, function, limits or Limits())


@functools.cache
def isolation() -> Isolation:
    """The strongest isolation that works on this machine; a small program tries each of them.

    Warns that "limits" isolate nothing, once per process.

    Raises:
        RuntimeError: If none works, or only "limits", to which nobody has agreed.
    """
    agreed = os.environ.get(AGREEMENT) == "1"
    kinds: tuple[Isolation, ...] = ("bubblewrap", "unshare", *(("limits",) if agreed else ()))
    complaints = []
    for kind in kinds:
        outcome = _run(kind, "import heapq; print(input())", "works", None, Limits())
        if outcome.output == "works\n":
            break
        complaints.append(f"{kind}: {outcome.failure} {outcome.errors[-300:]}".strip())
    else:
        raise RuntimeError(
            f"no sandbox runs {sys.executable} here ({'; '.join(complaints)}). Install bubblewrap "
            "(Debian: apt-get install bubblewrap) or allow user namespaces"
            + ("." if agreed else f"; or set {AGREEMENT}=1 if you trust the programs as your own.")
        )
    if kind == "limits":
        warnings.warn(
            "programs run under limits only, because neither bubblewrap nor namespaces work here. "
            f"A program can {WITHOUT_ISOLATION[os.geteuid() == 0]}. Install bubblewrap (Debian: "
            "apt-get install bubblewrap) or allow user namespaces.",
            stacklevel=3,
        )
    return kind


def _run(
    kind: Isolation, program: str, stdin: str, function: str | None, limits: Limits
) -> Outcome:
    user = user_of_its_own()
    place = Path(tempfile.mkdtemp(prefix="mi_lens_"))
    try:
        folder = place / "work"
        folder.mkdir()
        (place / "root").mkdir()
        place.chmod(0o711)
        (folder / "program.py").write_text(program, encoding="utf-8", errors="surrogatepass")
        if user is not None:
            os.chown(folder, user, user)
            os.chown(folder / "program.py", user, user)
        command = _python(folder, function, limits, user)
        try:
            command = enclosed(kind, folder, place / "root", command)
        except FileNotFoundError as error:
            return Outcome("", str(error), f"there is no {kind} here", 0.0, kind)
        outcome = _outcome(kind, command, folder, stdin, limits)
    finally:
        if kind == "limits" and user is not None:  # nothing else ends what left the session
            kill_all_of(user)
        left = remove_folder(place)
    if left is not None:
        return replace(outcome, failure=f"it left files that cannot be removed: {left}")
    return outcome


def _outcome(
    kind: Isolation, command: list[str], folder: Path, stdin: str, limits: Limits
) -> Outcome:
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        source.write(stdin.encode("utf-8", errors="surrogatepass"))
        source.seek(0)
        child = subprocess.Popen(
            command,
            stdin=source,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
        in_time = _wait(child, started + limits.seconds)
        printed, complaints = _read_end(output, limits.file_size), _read_end(errors, 4_000)
    return Outcome(
        output=printed,
        errors=complaints,
        failure=_failure(child.returncode, in_time, complaints, limits),
        seconds=time.monotonic() - started,
        isolation=kind,
    )


def _python(folder: Path, function: str | None, limits: Limits, user: int | None) -> list[str]:
    task = {
        "folder": str(folder),
        "function": function,
        "user": user,
        "limits": {
            "RLIMIT_CPU": limits.cpu_seconds,
            "RLIMIT_AS": limits.memory,
            "RLIMIT_FSIZE": limits.file_size,
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        },
    }
    text = CHILD.read_text(encoding="utf-8")
    return [sys.executable, "-I", "-B", "-X", "utf8", "-c", text, json.dumps(task)]


def _environment(folder: Path) -> dict[str, str]:
    here = {name: str(folder) for name in ("HOME", "TMPDIR")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"} | here | threads


def _wait(child: subprocess.Popen[bytes], deadline: float) -> bool:
    """Waits for the child until the deadline, then kills its process group.

    The child is reaped only after that: until then no other process group can get its number.

    Returns:
        Whether the child ended before the deadline.
    """
    in_time = False
    pause = 0.001
    try:
        while not in_time and (left := deadline - time.monotonic()) > 0:
            in_time = (
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            )
            if not in_time:
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, 0.02)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return in_time


def _read_end(file: IO[bytes], length: int) -> str:
    """The last `length` bytes of a file, as text."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - length))
    return file.read(length).decode("utf-8", errors="replace")


def _failure(code: int, in_time: bool, complaints: str, limits: Limits) -> str | None:
    if not in_time:
        return f"over {limits.seconds:g} s"
    if code == 0:
        return None
    if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGKILL):
        return f"killed by the system, as for over {limits.cpu_seconds} s of processor time"
    last_line = complaints.strip().rpartition("\n")[2]
    return last_line[:300] or f"ended with code {code}"
