"""kill -9 at random moments of a real run: it goes on, and ends as an undisturbed one.

A process start costs seconds, a kill none. So one fresh process imports everything, without running
any of it, and forks: every attempt is a child that starts warm, runs `mi-lens analyze` from the
command line's own entry, and is killed at a moment drawn over the length of an undisturbed run. The
report's drawings are left out: they take most of the time, and are made from the tables anew.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mi_lens.common.files import write_jsonl

KILLS = 50
PROBLEMS = [
    {"question": f"What is {i} + 12?", "answer": str(i + 12), "solution": f"It is {i + 12}"}
    for i in range(6)
]


def attempt(command: list[str]) -> int:
    """Runs a command line in a child; its process id."""
    from mi_lens.cli import main

    child = os.fork()
    if child:
        return child
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        main(command)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def table(path: Path) -> list[str]:
    """Rows in an order that does not depend on which was finished first; a torn last one is none.

    Every other line must be whole.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    for line in lines:
        json.loads(line)
    return sorted(lines)


def contents(folder: Path) -> dict[str, object]:
    """What every table and shard of a run holds; an error if one is corrupt."""
    from mi_lens.states.shard import load_activations

    tables: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".jsonl":
            tables[path.name] = table(path)
        elif path.suffix == ".json":
            tables[path.name] = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            states = load_activations(path)
            tables[path.name] = {name: state.tolist() for name, state in states.items()}
    return tables


def kill_and_continue(folder: Path, command: list[str]) -> None:
    """The program of the forking process; it exits 0 if every run ended as it should."""
    import random
    import signal
    import time

    import torch

    import mi_lens.models.backends.hooked
    import mi_lens.report.page
    import mi_lens.runs.analyze

    torch.set_num_threads(1)
    mi_lens.report.page.write_report = lambda *_: folder
    out = folder / "undisturbed"
    times = []
    for round_ in range(2):  # the first also reads what is imported late
        begun = time.monotonic()
        child = attempt([*command, "--out", str(out if round_ else folder / "first")])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        times.append(time.monotonic() - begun)
    undisturbed = contents(out)
    tables = {"traces.jsonl", "readings.jsonl", "peaks.json", "controls.json"}
    assert undisturbed.keys() > tables, sorted(undisturbed)
    assert sum(name.endswith(".safetensors") for name in undisturbed) == len(PROBLEMS)
    dice = random.Random(0)
    kills = runs = partials = 0
    while kills < KILLS:
        out = folder / f"run{runs}"
        finished = False
        while not finished:
            child = attempt([*command, "--out", str(out)])
            deadline = time.monotonic() + dice.uniform(0, times[1])
            while not finished and time.monotonic() < deadline:
                finished = os.waitpid(child, os.WNOHANG)[0] != 0
                time.sleep(0.0005)
            if not finished:
                os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                assert status in (0, -signal.SIGKILL), status
                finished = status == 0
                kills += not finished
                contents(out)  # nothing corrupt
                partials += sum(1 for _ in out.rglob(".*.partial"))
            if kills >= KILLS and not finished:  # enough: let it end
                child = attempt([*command, "--out", str(out)])
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                finished = True
        assert contents(out) == undisturbed | {"run.json": contents(out)["run.json"]}
        assert not list((out / "activations").glob(".*.partial"))
        runs += 1
    print(json.dumps({"kills": kills, "runs": runs, "partials": partials, "seconds": times[1]}))


@pytest.mark.slow
@pytest.mark.timeout(900)  # many short runs one after the other: on a busy machine they take long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_fifty_kills(checkpoint, tmp_path):
    write_jsonl(tmp_path / "problems.jsonl", PROBLEMS)
    command = ["analyze", "--model", str(checkpoint("llama")), "--device", "cpu"]
    command += ["--problems", str(tmp_path / "problems.jsonl"), "--batch-size", "2"]
    command += ["--max-new-tokens", "24", "--hook-names", "blocks.0.hook_resid_post"]
    command += [f"blocks.{layer}.hook_resid_post" for layer in (1, 2)]
    program = (
        "import sys; from pathlib import Path; from tests.runs.test_kill import kill_and_continue; "
        "kill_and_continue(Path(sys.argv[1]), sys.argv[2:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["kills"] == KILLS
    assert told["runs"] > 1
