"""The sandbox in every isolation that works here, as the user of the tests and as an ordinary user.

If the tests run as root, a child process runs the programs of an ordinary user.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lazy_loader
import pytest

from mi_lens.problems.grading import sandbox
from mi_lens.problems.grading.sandbox import Limits, Outcome

LOW = Limits(seconds=5.0, cpu_seconds=2, memory=256 << 20, file_size=1 << 20, processes=40)
KINDS = ("bubblewrap", "unshare", "limits")
NOBODY = 65534
Outcomes = Callable[[list[dict]], list[Outcome]]
HERE = Path(__file__).parent
PATHS = (HERE.parents[2], Path(lazy_loader.__file__).parents[1])  # this checkout; what it imports


@dataclasses.dataclass
class Sandbox:
    """One isolation, and the user that calls it.

    Attributes:
        kind: The isolation.
        user: The calling user; None for the user of the tests.
        caller: The calling process.
        temporary: Where the folders of programs are made.
        outcomes: Runs requests at the same time.
    """

    kind: str
    user: int | None
    caller: int
    temporary: Path
    outcomes: Outcomes

    def __call__(self, program, stdin="", *, function=None, limits=LOW) -> Outcome:
        return self.together(program, stdin=stdin, function=function, limits=limits)[0]

    def together(self, *programs, stdin="", function=None, limits=LOW) -> list[Outcome]:
        about = {"stdin": stdin, "function": function, "limits": dataclasses.asdict(limits)}
        return self.outcomes([{"kind": self.kind, "program": p, **about} for p in programs])

    @property
    def shares_the_user(self) -> bool:
        """Whether programs run as their caller without being apart from it."""
        return self.kind == "limits" and (self.user is not None or os.geteuid() != 0)

    def processes(self) -> list[str]:
        """The command lines of the programs that run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.temporary) in text:
                found.append(text)
        return found


def outcomes_here(requests: list[dict]) -> list[Outcome]:
    def outcome(request):
        return sandbox._run(**request | {"limits": Limits(**request["limits"])})

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(outcome, requests))


def any_users_python() -> str:
    """A Python that every user may run, where there is one; ours may be in /root."""
    if os.geteuid() != 0 or runs_for_nobody(sys.executable):
        return sys.executable
    return shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


def runs_for_nobody(python: str) -> bool:
    try:
        return not subprocess.call([python, "-c", ""], user=NOBODY, group=NOBODY, cwd="/")
    except OSError:
        return False


@pytest.fixture(scope="session")
def temporary() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def ordinary_user(temporary) -> Iterator[tuple[int, Outcomes] | None]:
    """A process of an ordinary user, which runs requests; None where the tests cannot."""
    if os.geteuid() != 0:
        yield None
        return
    folder = temporary / "ordinary"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "text": True}
    path = os.pathsep.join(map(str, PATHS))
    as_nobody["env"] = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "PYTHONPATH": path}
    as_nobody["env"]["SECRET_OF_THE_TEST"] = "open sesame"
    command = [any_users_python(), "-B", str(HERE / "programs_as.py")]
    try:
        check = [*command[:2], "-c", "import mi_lens.problems.grading.sandbox"]
        subprocess.run(check, check=True, capture_output=True, **as_nobody)
    except (OSError, subprocess.CalledProcessError):  # this checkout may be in /root
        yield None
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, **as_nobody) as child:
        questions, replies = child.stdin, child.stdout
        assert questions is not None
        assert replies is not None

        def outcomes(requests: list[dict]) -> list[Outcome]:
            questions.write(json.dumps(requests) + "\n")
            questions.flush()
            return [Outcome(**fields) for fields in json.loads(replies.readline())]

        yield child.pid, outcomes
        questions.close()


@pytest.fixture(scope="session")
def working() -> dict[tuple[str, str], bool]:
    """Which isolation works for whom, once it was tried."""
    return {}


@pytest.fixture(params=[(who, kind) for who in ("us", "ordinary") for kind in KINDS], ids="-".join)
def run(request, temporary, ordinary_user, working, monkeypatch) -> Iterator[Sandbox]:
    """Every isolation for every user; neither a file nor a process may be left of a program."""
    who, kind = request.param
    folder = temporary / who
    folder.mkdir(exist_ok=True)
    if who == "us":
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.setenv("SECRET_OF_THE_TEST", "open sesame")
        run = Sandbox(kind, None, os.getpid(), folder, outcomes_here)
        if kind == "limits":
            monkeypatch.setattr(sys, "executable", any_users_python())
    elif ordinary_user is None:
        pytest.skip("the tests cannot become an ordinary user, or are one")
    else:
        run = Sandbox(kind, NOBODY, ordinary_user[0], folder, ordinary_user[1])
    if request.param not in working:
        working[request.param] = run("print(1)").output == "1\n"
    if not working[request.param]:
        pytest.skip(f"{kind} does not work here")
    yield run
    assert list(folder.iterdir()) == []
    deadline = time.monotonic() + 3
    while run.processes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.processes() == []
