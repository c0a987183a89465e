import os
import signal
import subprocess
import sys
import time

BEGINNER = """
import subprocess, sys, time
above = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=sys.stdout)
time.sleep(60)
"""
ABOVE = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getppid())], stdout=sys.stdout)
time.sleep(60)
"""
WORKER = """
import os, sys, time
from mi_lens.generation.engines.vllm_worker.parent import end_with
end_with(int(sys.argv[1]))
print(os.getppid(), os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_killed_process_takes_the_workers_and_what_is_above_them_along():
    beginner = subprocess.Popen(
        [sys.executable, "-c", BEGINNER, ABOVE, WORKER], stdout=subprocess.PIPE, text=True
    )
    assert beginner.stdout is not None
    ids = list(map(int, beginner.stdout.readline().split()))
    assert len(ids) == 2
    assert all(map(runs, ids))
    beginner.kill()
    beginner.wait()
    try:
        deadline = time.monotonic() + 20
        while any(map(runs, ids)):
            assert time.monotonic() < deadline, "the processes go on without the one that began"
            time.sleep(0.1)
    finally:
        for each in filter(runs, ids):
            os.kill(each, signal.SIGKILL)
        beginner.stdout.close()


def test_a_process_does_not_watch_itself():
    code = (
        "import os, threading\n"
        "from mi_lens.generation.engines.vllm_worker.parent import end_with\n"
        "end_with(os.getpid())\n"
        "print(threading.active_count())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1"


def runs(process: int) -> bool:
    """Whether a process is there, and not only waits for its parent to ask how it ended."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
