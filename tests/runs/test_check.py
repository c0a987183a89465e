"""Damaged runs: named by `check` and by every reader, set aside and made again by the command."""

import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mi_lens.cli import main
from mi_lens.common.files import write_jsonl
from mi_lens.common.records import DamagedError
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.report.loading import read_runs
from mi_lens.runs import sweep
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.analyze import analyze
from mi_lens.runs.check import check
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig, GenerateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.runs.generate import run_generate
from mi_lens.runs.status import status
from mi_lens.runs.sweep_spec import Spec

HOOK = "blocks.1.hook_resid_post"
Run = Callable[[Path], object]


@pytest.fixture(scope="module")
def runs(checkpoint, tmp_path_factory) -> dict[str, tuple[Path, Run]]:
    """By command: the folder of a finished run, and what runs the same command in another one."""
    folder = tmp_path_factory.mktemp("damages")
    rows = [
        {"id": f"p{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)
    ]
    write_jsonl(folder / "problems.jsonl", rows)
    common = {
        "model": str(checkpoint("llama")),
        "problems": str(folder / "problems.jsonl"),
        "max_new_tokens": 9,
        "device": "cpu",
    }
    analysis = AnalyzeConfig(
        out=folder, hook_names=(HOOK,), site="answer_last", mismatched=2, **common
    )
    evaluation = EvaluateConfig(out=folder, conditions=("baseline", "q=Suppress(['so'])"), **common)
    spec = Spec(
        models=(common["model"],),
        problems=common["problems"],
        conditions=evaluation.conditions,
        max_new_tokens=5,
        unit=2,
        device="cpu",
    )
    generation = GenerateConfig(out=folder, **common)
    commands: dict[str, Run] = {
        "generate": lambda out: run_generate(replace(generation, out=out)),
        "analyze": lambda out: analyze(replace(analysis, out=out), progress=False),
        "evaluate": lambda out: run_evaluate(replace(evaluation, out=out)),
        "sweep": lambda out: sweep.run_sweep(spec, out, progress=False),
    }
    for name, command in commands.items():
        command(folder / name)
    return {name: (folder / name, command) for name, command in commands.items()}


def tables(folder: Path) -> dict[str, object]:
    """What the records of a folder say, without the time that it took."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*.json*")):
        if path.suffix in (".json", ".jsonl") and path.parent.name != "figures":
            rows = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[str(path.relative_to(folder))] = sorted(
                json.dumps(timeless(json.loads(row)), sort_keys=True) for row in rows
            )
    return found


def timeless(value: object) -> object:
    if isinstance(value, list):
        return [timeless(item) for item in value]
    if isinstance(value, dict):
        if isinstance(value.get("results"), str):  # the checksum of a table that holds seconds
            value = {**value, "results": ""}
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "checksum")}
    return value


def readers(name: str, folder: Path) -> Iterator[Callable[[], object]]:
    """Everything that reads a folder back."""
    yield lambda: read_runs([folder])
    if name == "analyze":
        yield lambda: Analysis.load(folder)
    if name == "evaluate":
        yield lambda: Evaluation.load(folder)
    if name == "sweep":
        yield lambda: sweep.results(folder)


def error_of(read: Callable[[], object]) -> str | None:
    try:
        read()
    except DamagedError as error:
        return str(error)
    return None


def files_of(folder: Path) -> list[Path]:
    suffixes = (".json", ".jsonl", ".safetensors", ".parquet")
    return [path for path in sorted(folder.rglob("*")) if path.suffix in suffixes]


def flip_a_bit(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data) - 1)] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def remove_a_line(path: Path, dice: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[dice.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def empty(path: Path, dice: random.Random) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, remove_a_line, empty])
@pytest.mark.parametrize("name", ["generate", "analyze", "evaluate", "sweep"])
def test_damages_are_named_and_made_again(runs, tmp_path, name, damage):
    whole, command = runs[name]
    assert check(whole).damages == ()
    undisturbed = {path: path.read_bytes() for path in files_of(whole)}
    expected = tables(whole)
    dice = random.Random(name)
    for path in undisturbed:
        if damage is remove_a_line and path.suffix != ".jsonl":
            continue
        folder = tmp_path / "run"
        shutil.copytree(whole, folder)
        hurt = folder / path.relative_to(whole)
        damage(hurt, dice)
        found = check(folder)
        assert any(str(hurt) in line for line in found.damages), (path, found)
        for read in readers(name, folder):
            error = error_of(read)  # None where the reader does not need that file
            assert error is None or str(hurt) in error
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            command(folder)
        assert tables(folder) == expected, path
        if damage is flip_a_bit and path.name != "results.parquet":
            assert any(str(hurt) in str(w.message) and "set aside" in str(w.message) for w in told)
            assert list(folder.rglob("*.damaged"))
        assert check(folder).damages == ()
        shutil.rmtree(folder)
    assert undisturbed == {path: path.read_bytes() for path in files_of(whole)}


@pytest.mark.parametrize("name", ["generate", "analyze", "evaluate", "sweep"])
def test_lost_traces_of_a_finished_run_are_told_by_its_status(runs, tmp_path, name):
    whole, _ = runs[name]
    folder = shutil.copytree(whole, tmp_path / "run")
    path = next(folder.rglob("traces.jsonl"))
    path.write_bytes(b"")
    with pytest.raises(DamagedError, match=rf"{path}: holds 0 of \d records of a finished run"):
        status(folder)


def test_traces_of_another_run_are_set_aside(runs, tmp_path):
    whole, command = runs["generate"]
    folder = shutil.copytree(whole, tmp_path / "run")
    own = (whole / "traces.jsonl").read_bytes()
    lines = (runs["evaluate"][0] / "traces.jsonl").read_bytes().splitlines(keepends=True)
    foreign = [line for line in lines if line not in own]
    (folder / "traces.jsonl").write_bytes(b"".join(foreign))
    with pytest.raises(DamagedError, match=r"traces\.jsonl: lacks 3 of 3 traces"):
        read_runs([folder])
    with pytest.warns(UserWarning, match=f"{len(foreign)} records are of another run"):
        command(folder)
    assert tables(folder) == tables(whole)


def test_a_damaged_readable_row_is_never_shown(runs, tmp_path):
    whole, _ = runs["evaluate"]
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    results = folder / "results.jsonl"
    results.write_bytes(results.read_bytes().replace(b'"correct": false', b'"correct": true ', 1))
    with pytest.raises(DamagedError, match=r"results\.jsonl, line 1: altered since"):
        read_runs([folder])
    with pytest.raises(SystemExit) as ended:
        main(["check", str(folder)])
    assert ended.value.code == 1


def test_a_foreign_folder_with_a_damaged_record_is_not_touched(runs, tmp_path):
    _, command = runs["evaluate"]
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "results.jsonl").write_text("mine\n")
    (tmp_path / "thesis.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match=r"holds no run of mi-lens.*no checksum"):
        command(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_what_is_no_run_is_not_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run of mi-lens"):
        check(tmp_path)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap for a read-only disk")
def test_finished_runs_on_a_read_only_disk(runs, tmp_path):
    commands = []
    for name, (folder, _) in runs.items():
        page = str(tmp_path / f"{name}.html")
        commands += [["status", folder], ["check", folder], ["report", folder, "--out", page]]
    commands.append(["results", runs["sweep"][0]])
    program = "import sys, json; from mi_lens.cli import main\n"
    program += "for command in json.loads(sys.argv[1]): main(command)"
    mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--bind", str(tmp_path), str(tmp_path)]
    ended = subprocess.run(
        ["bwrap", *mounts, sys.executable, "-c", program, json.dumps(commands, default=str)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)},
    )
    if "bwrap:" in ended.stderr:
        pytest.skip(f"no namespaces here: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Results: not written, since the folder is read-only" in ended.stdout
    assert len(list(tmp_path.glob("*.html"))) == len(runs)
