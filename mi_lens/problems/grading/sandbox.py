"""A sandbox for programs that nobody has reviewed.

A program runs in its own process and session. It gets an empty temporary folder as its working
folder and home, a minimal environment, and limits that it cannot raise. If the caller is root, the
program runs as the user nobody. In addition it runs inside the first of these that works on this
machine (see `isolation`):

  bubblewrap  no network; sees only its own processes; sees only its own folder and the files of
              Python and of the system
  unshare     the same if the caller is root; for another user no network and only its own
              processes, but the program can read and write the user's files
  limits      no isolation: the program can use the network and the files of the user that it runs
              as, and a child process that leaves the session outlives the program

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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

Isolation = Literal["bubblewrap", "unshare", "limits"]
NOBODY = 65534
CHILD = Path(__file__).with_name("sandbox_child.py")
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
# For root without bubblewrap: a private file tree in a mount namespace that ends with the program.
PRIVATE_TREE = r"""
umask 022
root=$1; folder=$2; shift 2
mount -t tmpfs -o mode=755,size=1m tmpfs "$root"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${1%/*}"; : > "$root$1"; fi
  mount --bind "$1" "$root$1"
  case "$1" in /dev/*) ;; *) mount -o remount,bind,ro,nosuid "$root$1" ;; esac
  shift
done
shift
mkdir -p "$root/proc" "$root$folder"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$folder" "$root$folder"
mount -o remount,ro "$root"
set +e
chroot "$root" "$@"
exit $?  # not exec: signals do not kill the first process of a namespace as they kill others
"""
KEEP_FIRST = '"$@"; exit $?'


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use.

    Attributes:
        seconds: Wall-clock time, including the start of the interpreter.
        cpu_seconds: Processor time per process, in whole seconds.
        memory: Bytes of address space per process.
        file_size: Bytes per file, and bytes of printed output.
        processes: Processes and threads. All those of the user that the program runs as count.
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
    """

    output: str
    errors: str
    failure: str | None
    seconds: float


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
        RuntimeError: If no isolation works on this machine.
    """
    return _run(isolation(), program, stdin, function, limits or Limits())


@functools.cache
def isolation() -> Isolation:
    """The strongest isolation that works on this machine; a small program tries each of them.

    Raises:
        RuntimeError: If Python runs in none of them.
    """
    outcome = Outcome("", "", None, 0.0)
    for kind in get_args(Isolation):
        outcome = _run(kind, "import heapq; print(input())", "works", None, Limits())
        if outcome.output == "works\n":
            return kind
    raise RuntimeError(
        f"no sandbox runs {sys.executable} here: {outcome.failure} {outcome.errors[-300:]}; use "
        "an interpreter that the user nobody may read (not below /root), or do not run as root"
    )


def _run(
    kind: Isolation, program: str, stdin: str, function: str | None, limits: Limits
) -> Outcome:
    user = NOBODY if os.geteuid() == 0 else None
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="mi_lens_", ignore_cleanup_errors=True) as place,
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        folder, root = Path(place) / "work", Path(place) / "root"
        folder.mkdir()
        root.mkdir()
        Path(place).chmod(0o711)
        (folder / "program.py").write_text(program, encoding="utf-8", errors="surrogatepass")
        if user is not None:
            os.chown(folder, user, user)
            os.chown(folder / "program.py", user, user)
        source.write(stdin.encode("utf-8", errors="surrogatepass"))
        source.seek(0)
        try:
            child = subprocess.Popen(
                _enclosed(kind, folder, root, _python(folder, function, limits, user)),
                stdin=source,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            return Outcome("", str(error), f"there is no {kind} here", 0.0)
        in_time = _wait(child, started + limits.seconds)
        printed, complaints = _read_end(output, limits.file_size), _read_end(errors, 4_000)
    return Outcome(
        output=printed,
        errors=complaints,
        failure=_failure(child.returncode, in_time, complaints, limits),
        seconds=time.monotonic() - started,
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


def _enclosed(kind: Isolation, folder: Path, root: Path, command: list[str]) -> list[str]:
    """The command that runs the given command inside an isolation."""
    python = (sys.prefix, sys.base_prefix)
    readable = [path for path in dict.fromkeys((*SYSTEM, *python)) if os.path.exists(path)]
    as_root = os.geteuid() == 0
    if kind == "bubblewrap":
        apart = [f"--unshare-{what}" for what in ("ipc", "net", "pid", "uts")]
        above = dict.fromkeys(
            str(up) for path in python for up in reversed(Path(path).parents[:-1])
        )
        folders = [word for path in above for word in ("--dir", path)]  # readable, unlike /root
        binds = [word for path in readable for word in ("--ro-bind", path, path)]
        to_leave_root = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if as_root else []
        return [
            *(_tool("bwrap"), "--die-with-parent", *apart, *to_leave_root, *folders, *binds),
            *("--proc", "/proc", "--dev", "/dev", "--bind", str(folder), str(folder)),
            *("--remount-ro", "/", "--", *command),
        ]
    if kind == "unshare":
        apart = ["--ipc", "--net", "--pid", "--uts", "--fork", "--kill-child"]
        if not as_root:
            own = ["--user", "--map-current-user", "--mount-proc"]
            return [_tool("unshare"), *own, *apart, "sh", "-c", KEEP_FIRST, "sh", *command]
        devices = [f"/dev/{name}" for name in ("null", "zero", "urandom")]
        tree = ["sh", "-euc", PRIVATE_TREE, "sh", str(root), str(folder), *readable, *devices]
        return [_tool("unshare"), "--mount", *apart, *tree, "--", *command]
    return command


def _tool(name: str) -> str:
    """The tool's path by the caller's PATH; the child's environment has another one."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name}: not installed")
    return path


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
