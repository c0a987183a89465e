"""The bench of a campaign: tiny inputs, undisturbed runs on them, and attempts in copies."""

import random
import shutil
import signal
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from mi_lens.common.files import write_jsonl
from mi_lens.interventions.vector import SteeringVector
from tests.conftest import save_checkpoint, train_tokenizer
from tests.soak.commands import OUT, SPEC, TRACEBACK, WRITERS, Ended, Running, readers, run
from tests.soak.oracle import Tables, difference, lasting, tables

Fault = Literal["traceback", "silent difference", "unclear error"]
State = Literal["new", "killed", "finished"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STATES: tuple[State, ...] = ("new", "killed", "finished")
HOOK = "blocks.1.hook_resid_post"
PROBLEMS = [
    {
        "id": f"p{i}",
        "question": f"What is {i} + 12?",
        "answer": f"{i + 12}",
        "solution": f"{i + 12}",
    }
    for i in range(3)
]


class AttemptError(Exception):
    """What an attempt must not come to.

    Args:
        fault: A traceback (or a hang, or a foreign exit status); other content than an undisturbed
            run's with exit status 0; or an error that does not name its cause, or from which the
            good command does not recover.
        what: What happened.
    """

    def __init__(self, fault: Fault, what: str):
        super().__init__(what)
        self.fault: Fault = fault


def save_vector(path: Path, numbers: Sequence[float]) -> None:
    """Writes a file with one steering vector."""
    vector = torch.tensor(numbers, dtype=torch.float32)
    counts: dict[Any, int] = {}
    SteeringVector(HOOK, vector, "made up", "random", "keywords", counts, {}, None).save(path)


class Bench:
    """Inputs, and for each command that writes an undisturbed run and how long it took.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.inputs = folder / "inputs"
        save_checkpoint(self.inputs / "model", "llama", train_tokenizer())
        write_jsonl(self.inputs / "problems.jsonl", PROBLEMS)
        dice = random.Random(0)
        save_vector(self.inputs / "vector.safetensors", [dice.gauss(0, 1) for _ in range(32)])
        (self.inputs / "spec.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
        self.tables: dict[str, Tables] = {}
        self.seconds: dict[str, float] = {}
        self.read: dict[str, list[str]] = {}
        for name in WRITERS:
            attempt = Attempt(self, folder / "undisturbed" / name, random.Random(0))
            self.seconds[name] = attempt.succeeds(attempt.command(name)).seconds
            self.tables[name] = tables(attempt.out)
            self.read[name] = attempt.read(name)

    def undisturbed(self, name: str) -> Path:
        """The folder of a command's undisturbed run."""
        return self.folder / "undisturbed" / name / OUT

    @cached_property
    def others(self) -> dict[str, Path]:
        """For each command the folder of another run: the same problems, fewer tokens."""
        folders = {}
        for name in WRITERS:
            attempt = Attempt(self, self.folder / "others" / name, random.Random(0))
            spec = yaml.safe_dump(SPEC | {"max_new_tokens": 9})
            (attempt.folder / "spec.yaml").write_text(spec, encoding="utf-8")
            fewer = [] if name == "sweep" else ["--max-new-tokens", "9"]
            attempt.succeeds([*attempt.command(name), *fewer])
            folders[name] = attempt.out
        return folders


class Attempt:
    """One attempt: a copy of the inputs, a folder to write to, and a history of commands.

    Args:
        bench: The bench.
        folder: The attempt's own folder, where its commands run.
        dice: What decides everything random in it.
    """

    def __init__(self, bench: Bench, folder: Path, dice: random.Random):
        self.bench, self.folder, self.dice = bench, folder, dice
        self.out = folder / OUT
        self.history: list[str] = []
        self.kills = 0
        self.restore_inputs()

    def restore_inputs(self) -> None:
        """Puts the inputs of the bench back."""
        if (self.folder / "model").exists():
            shutil.rmtree(self.folder / "model")
        shutil.copytree(self.bench.inputs, self.folder, dirs_exist_ok=True)

    def command(self, name: str, out: str = OUT) -> list[str]:
        """The good command of a name."""
        return [*WRITERS[name], "--out", out]

    def note(self, text: str) -> None:
        """Adds to the history."""
        self.history.append(text)

    def ended(self, ended: Ended, *, signalled: int | None = None) -> Ended:
        """Notes how a command ended.

        Raises:
            AttemptError: If it hung, showed a traceback, or ended with a status it must not have.
        """
        self.note(str(ended))
        allowed = {0, 2} | ({1} if ended.command[0] == "check" else set())
        if signalled is not None:
            allowed |= {-signalled} | ({130} if signalled == signal.SIGINT else set())
        if ended.status is None:
            raise AttemptError("traceback", f"hangs: {ended}")
        # A library in C cannot always raise a KeyboardInterrupt; Python then tells that it is lost.
        lost = signalled == signal.SIGINT and "Exception ignored in" in ended.stderr
        if ended.status not in allowed or (TRACEBACK in ended.stderr and not lost):
            raise AttemptError("traceback", f"{ended}\n{ended.stderr[-3000:]}")
        if ended.status == 2 and not (ended.stderr + ended.stdout).strip():
            raise AttemptError("unclear error", f"{ended}: prints nothing")
        return ended

    def run(self, command: Sequence[str], **how: Any) -> Ended:
        """Runs a command to its end; see `ended`."""
        return self.ended(run(command, self.folder, **how))

    def succeeds(self, command: Sequence[str], **how: Any) -> Ended:
        """Runs a command that must end with status 0."""
        ended = self.run(command, **how)
        if ended.status != 0:
            raise AttemptError(
                "unclear error", f"a good command fails: {ended}\n{ended.stderr[-2000:]}"
            )
        return ended

    def interrupted(self, command: Sequence[str], seconds: float, with_signal: int) -> bool:
        """Runs a command and sends it a signal at a moment; returns whether that cut it short.

        A library in C may turn a KeyboardInterrupt into an error of its own, with status 2.
        """
        running = Running(command, self.folder)
        self.note(f"signal {with_signal} after {seconds:.3f} s:")
        ended = self.ended(running.end(seconds, with_signal), signalled=with_signal)
        if ended.status == 2 and with_signal != signal.SIGINT:
            raise AttemptError("unclear error", f"{ended}\n{ended.stderr[-2000:]}")
        self.kills += ended.status != 0
        return ended.status != 0

    def begin(self, name: str, state: State) -> None:
        """Brings the folder into a state: not there, of a killed run, or of a finished one."""
        self.note(f"{name}, {state}:")
        if state == "finished":
            shutil.copytree(self.bench.undisturbed(name), self.out)
        if state == "killed":
            seconds = self.dice.uniform(0.3, 1) * self.bench.seconds[name]
            self.interrupted(self.command(name), seconds, signal.SIGKILL)

    def ends_as_undisturbed(self, name: str) -> None:
        """Runs the good command; its tables must be those of the undisturbed run, and whole."""
        ended = self.succeeds(self.command(name))
        apart = difference(tables(self.out), self.bench.tables[name])
        if apart is not None:
            raise AttemptError("silent difference", f"{ended}: {apart}\n{ended.stderr[-2000:]}")
        self.succeeds_check()

    def succeeds_check(self) -> None:
        """The folder must be whole, if it holds a run."""
        if (self.out / "run.json").exists() or (self.out / "sweep.json").exists():
            checked = self.run(["check", OUT])
            if checked.status != 0:
                raise AttemptError("silent difference", f"{checked}: {checked.stdout[-2000:]}")

    def reads_checkpoint(self, name: str) -> bool:
        """Whether the command will; a finished sweep gives its results without its models."""
        done = sum(1 for _ in self.out.glob("units/*/done.json"))
        return name != "sweep" or done * SPEC["unit"] < len(PROBLEMS)

    def read(self, name: str) -> list[str]:
        """What each reader says of the folder: its page or its text; an error begins with "!"."""
        said = []
        for command in readers(name):
            ended = self.run(command)
            if ended.status != 0:
                said.append(f"!{ended.stderr}")
            elif command[0] == "report":
                said.append((self.folder / "page.html").read_text(encoding="utf-8"))
            else:
                said.append(lasting(ended.stdout))
        return said
