"""Commands on vLLM: evaluations, and a sweep that is killed and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from mi_lens.cli import main
from mi_lens.common.records import read_records
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.runs.sweep import run_sweep
from mi_lens.runs.sweep_spec import Spec
from tests.vllm.running import require_gone, vllm_processes

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CONDITIONS = ["baseline", "quiet=Suppress(['so'])", "rr=Recycle(1, ['so', 'is', 'the'])"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A folder with problems and a sweep of one model."""
    path = tmp_path_factory.mktemp("runs")
    questions = [f"What is {i} + 12?" for i in range(6)]
    rows = [{"id": f"p{i}", "question": q, "answer": str(i + 12)} for i, q in enumerate(questions)]
    (path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "models": [str(tiny("llama"))],
        "problems": str(path / "problems.jsonl"),
        "conditions": CONDITIONS,
        "engine": "vllm",
        "engine_options": ["max_num_seqs=4"],
        "dtype": "float32",
        "max_new_tokens": 60,
        "unit": 2,
    }
    (path / "spec.yaml").write_text(json.dumps(spec))  # JSON is YAML
    return path


def test_an_evaluation(folder, tmp_path):
    spec = Spec.read(folder / "spec.yaml")
    command = ["evaluate", "--model", spec.models[0], "--problems", spec.problems]
    command += ["--conditions", *CONDITIONS, "--max-new-tokens", "12", "--dtype", "float32"]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    main([*command, "--out", str(ours)])
    options = ["--engine", "vllm", "--engine-options", "max_num_seqs=4"]
    main([*command, *options, "--out", str(theirs)])
    evaluations = [Evaluation.load(path) for path in (ours, theirs)]
    assert evaluations[1].setting["engine"].startswith("vllm 0.32.")
    assert len(evaluations[1].results) == 18
    results = [
        [replace(r, seconds=None, trace="") for r in evaluation.results]
        for evaluation in evaluations
    ]
    assert results[0] == results[1]


def python(code, *arguments, log):
    """A Python of its own under way, with vLLM in processes below it."""
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("wb") as out:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out)


def test_a_kill_while_it_starts(folder, tmp_path):
    code = "import sys; from mi_lens import load_engine; load_engine(sys.argv[1])"
    process = python(code, Spec.read(folder / "spec.yaml").models[0], log=tmp_path / "log")
    begun = []
    while process.poll() is None and len(begun) < 2:  # Alone, the first waits for its caller.
        time.sleep(0.01)
        begun = vllm_processes(process.pid)
    assert len(begun) == 2, (tmp_path / "log").read_text()
    process.kill()
    process.wait()
    require_gone(begun, seconds=60)


@pytest.mark.timeout(280)
def test_a_sweep_that_is_killed_and_goes_on(folder, tmp_path):
    killed = tmp_path / "killed"
    code = "import sys; from mi_lens.cli import main; main(sys.argv[1:])"
    command = ["sweep", str(folder / "spec.yaml"), "--out", str(killed)]
    process = python(code, *command, log=tmp_path / "log")
    while process.poll() is None and not any(killed.glob("units/*/traces.jsonl")):
        time.sleep(0.01)
    assert process.poll() is None, (tmp_path / "log").read_text()
    workers = vllm_processes(process.pid)
    assert len(workers) >= 2
    process.kill()
    assert process.wait() == -signal.SIGKILL
    require_gone(workers)
    assert len(list(killed.glob("units/*/done.json"))) < 3
    goes_on = run_sweep(Spec.read(folder / "spec.yaml"), killed)
    own = replace(Spec.read(folder / "spec.yaml"), engine="transformer_lens", engine_options=())
    alone = run_sweep(own, tmp_path / "ours")
    for evaluations in zip(goes_on.values(), alone.values(), strict=True):
        results = [
            [replace(r, seconds=None, trace="") for r in evaluation.results]
            for evaluation in evaluations
        ]
        assert results[0] == results[1]
    rows = [row for path in killed.glob("units/*/traces.jsonl") for row in read_records(path)]
    assert len(rows) == len({row["id"] for row in rows}) == 18
