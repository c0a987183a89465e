"""Programs that misbehave, in every isolation and for every user that works here."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import pytest

from mi_lens.problems.grading import enclosures, sandbox
from mi_lens.problems.grading.sandbox import Limits, isolation, run_program
from tests.problems.grading.conftest import KINDS, LOW, NOBODY, any_users_python


def test_the_strongest_that_works_is_taken():
    def works(kind):
        return sandbox._run(kind, "print(1)", "", None, LOW).output == "1\n"

    assert isolation() == next(kind for kind in KINDS if works(kind))
    assert run_program("").isolation == isolation()


def test_a_program_reads_and_prints(run):
    outcome = run("print(sum(map(int, input().split())))", "2 3\n")
    assert (outcome.output, outcome.errors, outcome.failure) == ("5\n", "", None)
    assert 0 < outcome.seconds < 5


def test_a_function_returns(run):
    text = (
        "class Solution:\n def f(self, a: List[int], b):\n  print('noise'); return [sorted(a), b]"
    )
    outcome = run(text, '[3, 1]\n"x"', function="f")
    assert (outcome.output, outcome.errors) == ('[[1, 3], "x"]', "noise\n")
    assert run("def f(n): return n + 1", "4", function="f").output == "5"
    assert "AttributeError" in (run("", "4", function="f").failure or "")


def test_what_a_program_finds(run):
    text = "import os, sys; print(os.getcwd() == os.environ['HOME'] == os.path.expanduser('~'),"
    text += " os.listdir(), sys.argv, __name__, sorted(os.environ))"
    printed = run(text).output
    assert printed.startswith("True ['program.py'] ['program.py'] __main__ ")
    assert not set(eval(printed.split("__main__ ")[1])) & {
        "SECRET_OF_THE_TEST",
        "USER",
        "PYTHONPATH",
    }


def test_a_loop_ends(run):
    # On a busy machine a second of processor time may take many of the clock.
    limits = dataclasses.replace(LOW, seconds=60.0, cpu_seconds=1)
    spin = run("while True: pass", limits=limits)
    assert spin.failure is not None
    assert "1 s of processor time" in spin.failure
    sleep = run("import time; time.sleep(60)", limits=dataclasses.replace(LOW, seconds=0.5))
    assert sleep.failure == "over 0.5 s"
    assert sleep.seconds < 3


def test_memory_ends(run):
    outcome = run("x = bytearray(1 << 30); print(len(x))")
    assert (outcome.output, outcome.failure) == ("", "MemoryError")


def test_a_file_ends(run):
    text = "f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20)); f.flush()"
    outcome = run(text)
    assert outcome.failure is not None
    assert "File too large" in outcome.failure


def test_printing_ends(run):
    outcome = run("while True: print('y' * 1000)")
    assert len(outcome.output) <= LOW.file_size
    assert outcome.failure is not None
    outcome = run("import sys\nwhile True: sys.stderr.write('y' * 1000)")
    assert len(outcome.errors) <= 4_000
    assert outcome.failure is not None


def test_forking_ends(run):
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
    outcome = run(text, limits=dataclasses.replace(LOW, processes=12))
    if run.shares_the_user:  # whose other processes count, and may leave room for none
        assert "BlockingIOError" in outcome.output + outcome.errors
    else:
        assert outcome.output.split()[0] == "BlockingIOError"
        assert 8 < int(outcome.output.split()[-1]) < 12


BOMB = """
import os, time
end = time.monotonic() + 1.2
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        time.sleep(0.05)
"""
THREADS = """
import threading, time
time.sleep(0.5)
threading.stack_size(1 << 16)
all_here = threading.Barrier(30)
threads = [threading.Thread(target=all_here.wait) for _ in range(30)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("thirty")
"""


def test_a_fork_bomb_takes_nothing_from_another_program(run):
    if run.shares_the_user:
        pytest.skip("limits: the user's processes are counted together")
    limits = dataclasses.replace(LOW, memory=4 << 30)
    _, *honest = run.together(BOMB, THREADS, THREADS, limits=limits)
    assert [(each.output, each.failure) for each in honest] == [("thirty\n", None)] * 2


def test_limits_cannot_be_lifted(run):
    text = "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (10**6, 10**6))"
    outcome = run(text)
    assert outcome.failure is not None
    assert "not allowed to raise maximum limit" in outcome.failure


DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    if DETACHED: os.setsid()
    for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.closerange(0, 64)
        time.sleep(60)
    os._exit(0)
print("gone", flush=True)
os.close(1)
"""


def test_what_is_left_in_the_background_ends(run):
    detached = not run.shares_the_user  # then it is said that it may outlive its run
    outcome = run(DAEMON.replace("DETACHED", str(detached)))
    assert (outcome.output, outcome.failure) == ("gone\n", None)
    assert outcome.seconds < 3


def test_the_network_is_cut(run):
    if run.kind == "limits":
        pytest.skip("limits leave the network as it is")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        outcome = run(text)
        assert outcome.failure is not None
        assert outcome.failure.startswith(("OSError", "ConnectionRefusedError"))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_parent_is_out_of_reach(run):
    secret = run.temporary.with_name("secret.txt")
    secret.write_text("open sesame")
    secret.chmod(0o600)
    if run.user is not None:
        os.chown(secret, run.user, run.user)
    own, process = f"/proc/{run.caller}", "/proc/1/root/etc/passwd"
    for path in (str(secret), f"{own}/environ", f"{own}/mem", process):
        if run.shares_the_user:
            continue  # the docstring says so
        outcome = run(f"print(open({path!r}, 'rb').read(100))")
        assert outcome.output == ""
        assert outcome.failure is not None
        assert outcome.failure.startswith(("PermissionError", "FileNotFoundError"))
    secret.unlink()


KILL = """
import os, signal
victims = [CALLER, os.getppid(), 1, -os.getpgid(os.getppid()), -os.getsid(0), -1]
for victim in victims:
    try:
        os.kill(victim, signal.SIGKILL)
    except OSError:
        pass
"""


def test_a_program_kills_nobody_else(run):
    if run.shares_the_user:
        pytest.skip("limits: a program may kill its caller, which is why they need agreement")
    others = [
        subprocess.Popen(["sleep", "60"], user=user, cwd="/", start_new_session=True)
        for user in ((None, NOBODY) if os.geteuid() == 0 else (None,))
    ]
    try:
        run(KILL.replace("CALLER", str(run.caller)))
        assert run("print('still here')").output == "still here\n"
        assert [other.poll() for other in others] == [None] * len(others)
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_files_out_of_reach_are_not_there(run):
    if run.kind == "limits":
        pytest.skip("limits leave files as they are")
    outcome = run("import os; print(os.path.exists('/home'), os.path.exists('/var'))")
    assert outcome.output == "False False\n"
    for place in ("/", "/usr", sys.prefix, "/dev", "/dev/shm", "/tmp"):
        outcome = run(f"open({place + '/new'!r}, 'w')")
        assert outcome.failure is not None


LEFT = """
import os, socket
os.symlink(OUTSIDE, 'link')
os.symlink('..', 'up')
os.mkfifo('pipe')
socket.socket(socket.AF_UNIX).bind('socket')
os.makedirs(b'\\xff\\n/' + b'n' * 255)
open(b'\\xfe*', 'w')
os.makedirs('a/b/c')
os.chmod('a/b', 0)
os.chmod('a', 0)
os.mkdir('deep')
os.chmod('.', 0o500)
os.chdir('deep')
for _ in range(1200):
    os.mkdir('d' * 9)
    os.chdir('d' * 9)
os.symlink(OUTSIDE, 'link')
"""
REMOVES_ITSELF = "import os, shutil; shutil.rmtree(os.getcwd(), ignore_errors=True); print(1)"
# Its processes write while they are killed.
WRITES_ON = """
import itertools, os, time
for _ in range(3): os.fork()
os.setsid() if os.getpgid(0) != os.getpid() else None
for number in itertools.count():
    os.makedirs(f"{os.getpid()}/{number}/x")
    time.sleep(0.005)
"""


def test_what_a_program_leaves_is_removed(run):
    outside = run.temporary.with_name("outside")
    outside.mkdir()
    outside.chmod(0o751)
    (outside / "file").write_text("kept")
    if run.user is not None:
        os.chown(outside, run.user, run.user)
    assert run(LEFT.replace("OUTSIDE", repr(str(outside)))).failure is None
    assert list(run.temporary.iterdir()) == []
    assert (outside / "file").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o751
    shutil.rmtree(outside)
    assert run(REMOVES_ITSELF).output == "1\n"
    if not run.shares_the_user:
        outcome = run(WRITES_ON, limits=dataclasses.replace(LOW, seconds=0.5))
        assert outcome.failure == "over 0.5 s"


def test_a_folder_is_removed_and_private(run):
    first = run("import os; open('mine', 'w'); print(os.getcwd())")
    assert Path(first.output.strip()).parent.parent == run.temporary
    assert not Path(first.output.strip()).parent.exists()


def test_any_text_is_a_program(run):
    assert run("\0").failure is not None
    assert run("print('\ud800')").failure is not None
    assert run("(" * 10_000).failure is not None
    assert run("").failure is None
    assert run("print(input())", "ü\n").output == "ü\n"


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


def test_output_of_any_bytes_is_text(run):
    outcome = run("import os; os.write(1, b'\\xff\\0\\xed\\xa0\\x80'); os.write(2, b'\\xfe')")
    assert (outcome.output, outcome.errors) == ("\ufffd\0\ufffd\ufffd\ufffd", "\ufffd")


@pytest.fixture
def only_limits(monkeypatch, temporary):
    """A machine without bubblewrap and unshare."""
    folder = temporary / "only_limits"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(sys, "executable", any_users_python())
    monkeypatch.setattr(enclosures.shutil, "which", lambda _: None)
    monkeypatch.delenv("MI_LENS_TRUST_PROGRAMS", raising=False)
    isolation.cache_clear()
    yield
    isolation.cache_clear()


def test_limits_alone_need_agreement_and_warn_once(only_limits, monkeypatch):
    for answer in ("", "0", "yes"):
        monkeypatch.setenv("MI_LENS_TRUST_PROGRAMS", answer)
        with pytest.raises(RuntimeError, match=r"bwrap: not installed.*MI_LENS_TRUST_PROGRAMS=1"):
            run_program("print(1)")
    monkeypatch.setenv("MI_LENS_TRUST_PROGRAMS", "1")
    with pytest.warns(UserWarning, match=r"A program can .*use the network.*Install bubblewrap"):
        assert run_program("print(1)").isolation == "limits"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_program("print(1)").output == "1\n"


def test_a_machine_where_nothing_works(monkeypatch):
    monkeypatch.setenv("MI_LENS_TRUST_PROGRAMS", "1")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="no sandbox runs"):
        isolation.__wrapped__()


def test_limits_are_positive():
    with pytest.raises(ValueError, match="memory=0: expected a positive limit"):
        Limits(memory=0)


@pytest.mark.parametrize(
    ("uid_map", "users"),
    [
        ("0 0 4294967295", enclosures.UNUSED),
        ("0 1000 1\n1 100000 65536", enclosures.UNUSED_IN_A_CONTAINER),
    ],
)
def test_every_program_of_root_is_another_user(monkeypatch, uid_map, users):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: uid_map)
    drawn = {enclosures.user_of_its_own() for _ in range(50)}
    assert all(user in users for user in drawn)
    assert len(drawn) > 40


def test_root_of_one_user_is_refused(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "0 1000 1")
    with pytest.raises(RuntimeError, match="ends at user 0; expected users up to 60000"):
        enclosures.user_of_its_own()
