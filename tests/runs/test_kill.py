"""kill -9 at random moments of a real run: it goes on, and ends as an undisturbed one.

Every attempt runs `mi-lens analyze` from the command line's own entry, in a process forked warm
(`tests.processes`), and is killed at a moment drawn over the length of an undisturbed run. After
five kills a run is left to end. The report's drawings are left out: they take most of the time, and
are made from the tables anew.
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from mi_lens.common.files import write_jsonl
from mi_lens.states.shard import load_activations
from tests.processes import start

KILLS = 50
KILLS_OF_A_RUN = 5  # at most; it may end before
PROBLEMS = [
    {"question": f"What is {i} + 12?", "answer": str(i + 12), "solution": f"It is {i + 12}"}
    for i in range(4)
]


def run_without_drawing(command: list[str]) -> None:
    """Runs a command line, in a child."""
    import mi_lens.report.page
    from mi_lens.cli import main

    mi_lens.report.page.write_report = lambda *_: Path()
    main(command)


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
    files: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or path.is_dir():
            continue
        if path.suffix == ".jsonl":
            files[path.name] = table(path)
        elif path.suffix == ".json":
            files[path.name] = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            states = load_activations(path)
            files[path.name] = {name: state.tolist() for name, state in states.items()}
    return files


def ends(command: list[str], within: float | None = None) -> bool:
    """Whether the command ends within some seconds (None: however long it takes), or is killed."""
    child = start(run_without_drawing, command)
    child.join(within)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)  # many short runs one after the other: on a busy machine they take long
def test_fifty_kills(checkpoint, tmp_path):
    write_jsonl(tmp_path / "problems.jsonl", PROBLEMS)
    command = ["analyze", "--model", str(checkpoint("llama")), "--device", "cpu"]
    command += ["--problems", str(tmp_path / "problems.jsonl"), "--batch-size", "2"]
    command += ["--max-new-tokens", "12", "--hook-names", "blocks.0.hook_resid_post"]
    command += ["blocks.2.hook_resid_post"]
    lengths = []
    for out in (tmp_path / "first", tmp_path / "second", tmp_path / "undisturbed"):
        begun = time.monotonic()
        assert ends([*command, "--out", str(out)])
        lengths.append(time.monotonic() - begun)
    length = min(lengths)  # the first also waits for the process that is forked
    undisturbed = contents(out)
    tables = {"traces.jsonl", "readings.jsonl", "peaks.json", "controls.json"}
    assert undisturbed.keys() > tables, sorted(undisturbed)
    assert sum(name.endswith(".safetensors") for name in undisturbed) == len(PROBLEMS)
    dice = random.Random(0)
    kills = runs = partials = 0
    while kills < KILLS:
        out = tmp_path / f"run{runs}"
        moments = [dice.uniform(0, length) for _ in range(min(KILLS_OF_A_RUN, KILLS - kills))]
        for moment in (*moments, None):
            if ends([*command, "--out", str(out)], moment):
                break
            kills += 1
            contents(out)  # nothing corrupt
            partials += sum(1 for _ in out.rglob(".*.partial"))
        assert contents(out) == undisturbed | {"run.json": contents(out)["run.json"]}
        assert not list((out / "activations").glob(".*.partial"))
        runs += 1
    print({"runs": runs, "partials": partials, "seconds": length})
    assert runs >= KILLS / KILLS_OF_A_RUN
