"""Programs that misbehave, in every isolation that works here; limits are kept low."""

import dataclasses
import os
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from mi_lens.problems.grading import sandbox
from mi_lens.problems.grading.sandbox import Limits, isolation, run_program

LOW = Limits(seconds=5.0, cpu_seconds=2, memory=256 << 20, file_size=1 << 20, processes=40)


def works(kind) -> bool:
    return sandbox._run(kind, "print(1)", "", None, LOW).output == "1\n"


@pytest.fixture(params=["bubblewrap", "unshare", "limits"])
def kind(request, monkeypatch):
    """Every isolation in turn."""
    if request.param == "limits" and not works("limits"):
        system = shutil.which("python3", path="/usr/bin:/usr/local/bin")  # ours may be in /root
        monkeypatch.setattr(sys, "executable", system or sys.executable)
    if not works(request.param):
        pytest.skip(f"{request.param} does not work here")
    monkeypatch.setattr(sandbox, "isolation", lambda: request.param)
    return request.param


def processes_with(mark: str) -> list[int]:
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "cmdline").read_bytes():
                    processes.append(int(entry.name))
            except OSError:
                continue
    return processes


def test_the_strongest_that_works_is_taken():
    assert isolation() == next(k for k in ("bubblewrap", "unshare", "limits") if works(k))


def test_a_program_reads_and_prints(kind):
    outcome = run_program("print(sum(map(int, input().split())))", "2 3\n", limits=LOW)
    assert (outcome.output, outcome.errors, outcome.failure) == ("5\n", "", None)
    assert 0 < outcome.seconds < 5


def test_a_function_returns(kind):
    text = (
        "class Solution:\n def f(self, a: List[int], b):\n  print('noise'); return [sorted(a), b]"
    )
    outcome = run_program(text, '[3, 1]\n"x"', function="f", limits=LOW)
    assert (outcome.output, outcome.errors) == ('[[1, 3], "x"]', "noise\n")
    assert run_program("def f(n): return n + 1", "4", function="f", limits=LOW).output == "5"
    assert "AttributeError" in (run_program("", "4", function="f", limits=LOW).failure or "")


def test_what_a_program_finds(kind):
    text = "import os, sys; print(os.getcwd() == os.environ['HOME'] == os.path.expanduser('~'),"
    text += " os.listdir(), sys.argv, __name__, sorted(os.environ))"
    printed = run_program(text, limits=LOW).output
    assert printed.startswith("True ['program.py'] ['program.py'] __main__ ")
    assert not set(eval(printed.split("__main__ ")[1])) & {
        "SECRET_OF_THE_TEST",
        "USER",
        "PYTHONPATH",
    }


def test_a_loop_ends(kind):
    # On a busy machine a second of processor time may take many of the clock.
    limits = dataclasses.replace(LOW, seconds=60.0, cpu_seconds=1)
    spin = run_program("while True: pass", limits=limits)
    assert spin.failure is not None
    assert "1 s of processor time" in spin.failure
    sleep = run_program("import time; time.sleep(60)", limits=dataclasses.replace(LOW, seconds=0.5))
    assert sleep.failure == "over 0.5 s"
    assert sleep.seconds < 3


def test_memory_ends(kind):
    outcome = run_program("x = bytearray(1 << 30); print(len(x))", limits=LOW)
    assert (outcome.output, outcome.failure) == ("", "MemoryError")


def test_a_file_ends(kind):
    text = "f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20)); f.flush()"
    outcome = run_program(text, limits=LOW)
    assert outcome.failure is not None
    assert "File too large" in outcome.failure


def test_printing_ends(kind):
    outcome = run_program("while True: print('y' * 1000)", limits=LOW)
    assert len(outcome.output) <= LOW.file_size
    assert outcome.failure is not None
    outcome = run_program("import sys\nwhile True: sys.stderr.write('y' * 1000)", limits=LOW)
    assert len(outcome.errors) <= 4_000
    assert outcome.failure is not None


def test_forking_ends(kind):
    text = """
import os, time
children = 0
for _ in range(100):
    try:
        if os.fork() == 0:
            time.sleep(30)
    except OSError as error:
        print(type(error).__name__)
        break
    children += 1
print(children, flush=True)
os._exit(0)
"""
    limits = dataclasses.replace(LOW, processes=12)
    outcome = run_program(text, limits=limits)
    if os.geteuid() == 0:
        assert outcome.output.split()[0] == "BlockingIOError"
        assert int(outcome.output.split()[-1]) < limits.processes
    else:  # the user's other processes count, and may leave room for none
        assert "BlockingIOError" in outcome.output + outcome.errors


def test_limits_cannot_be_lifted(kind):
    text = "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (10**6, 10**6))"
    outcome = run_program(text, limits=LOW)
    assert outcome.failure is not None
    assert "not allowed to raise maximum limit" in outcome.failure


def test_what_is_left_in_the_background_ends(kind):
    mark = f"left-behind-{os.getpid()}-{time.monotonic_ns()}"
    text = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c',"
    text += f" 'import time; time.sleep(60)', '{mark}'], start_new_session=DETACHED)\nprint('gone')"
    detached = kind != "limits"  # which says that it cannot end what leaves the session
    outcome = run_program(text.replace("DETACHED", str(detached)), limits=LOW)
    assert outcome.output == "gone\n"
    deadline = time.monotonic() + 3
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(mark)


def test_the_network_is_cut(kind):
    if kind == "limits":
        pytest.skip("limits leave the network as it is")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        outcome = run_program(text, limits=LOW)
        assert outcome.failure is not None
        assert outcome.failure.startswith(("OSError", "ConnectionRefusedError"))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_parent_is_out_of_reach(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_TEST", "open sesame")
    secret = tmp_path / "secret.txt"
    secret.write_text("open sesame")
    secret.chmod(0o600)
    for path in (secret, Path(f"/proc/{os.getpid()}/environ"), Path(f"/proc/{os.getpid()}/mem")):
        outcome = run_program(f"print(open({str(path)!r}, 'rb').read(100))", limits=LOW)
        as_user = kind != "bubblewrap" and os.geteuid() != 0
        if as_user and (path == secret or kind == "limits"):
            continue  # the docstring says so
        assert outcome.output == ""
        assert outcome.failure is not None
        assert outcome.failure.startswith(("PermissionError", "FileNotFoundError"))
    kill = run_program(f"import os; os.kill({os.getppid()}, 0)", limits=LOW)
    if os.geteuid() == 0 or kind != "limits":
        assert kill.failure is not None


def test_files_out_of_reach_are_not_there(kind, tmp_path):
    if kind == "limits" or (kind == "unshare" and os.geteuid() != 0):
        pytest.skip(f"{kind} leaves files as they are")
    outcome = run_program(
        "import os; print(os.path.exists('/home'), os.path.exists('/var'))", limits=LOW
    )
    assert outcome.output == "False False\n"
    for place in ("/", "/usr", sys.prefix, "/dev"):
        outcome = run_program(f"open({place + '/new'!r}, 'w')", limits=LOW)
        assert outcome.failure is not None


def test_a_folder_is_removed_and_private(kind):
    first = run_program("import os; open('mine', 'w'); print(os.getcwd())", limits=LOW)
    assert not Path(first.output.strip()).parent.exists()


def test_any_text_is_a_program(kind):
    assert run_program("\0", limits=LOW).failure is not None
    assert run_program("print('\ud800')", limits=LOW).failure is not None
    assert run_program("(" * 10_000, limits=LOW).failure is not None
    assert run_program("", limits=LOW).failure is None
    assert run_program("print(input())", "ü\n", limits=LOW).output == "ü\n"


def test_off_the_main_thread_and_many_at_once():
    outputs = {}

    def run(number):
        outputs[number] = run_program(f"print({number})", limits=Limits()).output

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {n: f"{n}\n" for n in range(4)}


def test_a_machine_where_nothing_works(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="no sandbox runs"):
        isolation.__wrapped__()


def test_limits_are_positive():
    with pytest.raises(ValueError, match="memory=0: expected a positive limit"):
        Limits(memory=0)
