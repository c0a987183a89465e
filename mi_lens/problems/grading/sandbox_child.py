"""Runs first inside the sandbox: it forks once for each input, and runs the program in the fork.

`python -I -c` gets this file as text, so that the sandbox need not read any file of the package.
Each line of stdin is an input as JSON; each line of stdout says how the run on it ended. The first
run that fails is the last.
"""

import atexit
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import types
from typing import IO

# Competition programs use these names without importing them; importing them again is harmless.
# Modules come last: bisect.bisect must not hide bisect.
MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json", "typing"),
)
COMMON_NAMES = "\n".join(
    [f"from {name} import *" for name in (*MODULES, "builtins")]
    + [f"import {name}" for name in MODULES]
)
RECURSION = 50_000  # Frames; the depth that programs for contests count on.
OUTPUTS = 16  # All runs together may print so many times what one may.


def become_user(user: int | None) -> None:
    """Gives up root's rights."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def confine(limits: dict[str, int]) -> None:
    """Sets hard limits, which an ordinary user cannot raise."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))


def main() -> None:
    """Runs `program.py` on every input, or calls one of its functions with it."""
    task = json.loads(sys.argv[1])
    os.chdir(task["folder"])
    become_user(task["user"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    names: dict[str, object] = {}
    exec(COMMON_NAMES, names)
    left = OUTPUTS * task["limits"]["RLIMIT_FSIZE"]
    for line in sys.stdin.buffer.readlines():
        files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 -- kept open
        files[0].write(json.loads(line).encode("utf-8", errors="surrogatepass"))
        files[0].seek(0)
        begun = time.monotonic()
        process = os.fork()
        if process == 0:
            run_forked(task, names, [file.fileno() for file in files])
            end()
        code, in_time = wait(process, begun + task["seconds"])
        output, errors = (read_end(file, task["limits"]["RLIMIT_FSIZE"]) for file in files[1:])
        ended = {
            "output": output[:left],
            "errors": errors[-4000:],
            "code": code,
            "in_time": in_time,
            "seconds": time.monotonic() - begun,
        }
        print(json.dumps(ended), flush=True)
        left -= len(output)
        if code != 0 or not in_time or left < 0:
            return


def run_forked(task: dict, names: dict[str, object], descriptors: list[int]) -> None:
    """Runs the program with its own files as stdin, stdout and stderr, within the limits."""
    os.setpgid(0, 0)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", errors="surrogateescape", closefd=False)
    confine(task["limits"])
    sys.setrecursionlimit(RECURSION)
    sys.argv = ["program.py"]
    with open("program.py", encoding="utf-8", errors="surrogatepass") as file:
        text = file.read()
    if task["function"] is None:
        become("__main__", text, names)
        return
    replies = os.dup(1)
    os.dup2(2, 1)  # the program may print, but stdout is for the returned value
    program = become("program", text, names)
    holder = program.Solution() if hasattr(program, "Solution") else program
    arguments = [json.loads(line) for line in sys.stdin.read().splitlines()]
    result = getattr(holder, task["function"])(*arguments)
    with os.fdopen(replies, "w", encoding="utf-8") as file:
        json.dump(result, file)


def end() -> None:
    """Ends a fork as an interpreter ends, without the time that it takes to free its objects."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def become(name: str, text: str, names: dict[str, object]) -> types.ModuleType:
    """Runs a program's text as a module with this name, which has the common names already."""
    program = types.ModuleType(name)
    sys.modules[name] = program
    program.__dict__.update({**names, "__name__": name})
    exec(compile(text, "program.py", "exec"), program.__dict__)
    return program


def wait(process: int, deadline: float) -> tuple[int, bool]:
    """Waits for a fork until the deadline, then kills its process group.

    Returns:
        Its exit code, negative for a signal, and whether it ended before the deadline.
    """
    ended, pause = None, 0.0005
    while ended is None and (left := deadline - time.monotonic()) > 0:
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.02)
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has left its group, or has yet to make it
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), ended is not None


def read_end(file: IO[bytes], length: int) -> str:
    """The last `length` bytes of a file, as text."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - length))
    return file.read(length).decode("utf-8", errors="replace")


if __name__ == "__main__":
    main()
