import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch

import mi_lens
from mi_lens.common.files import read_jsonl, replacing, write_jsonl
from mi_lens.generation.generate import generate
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.runs.config import EvaluateConfig, GenerateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.runs.folder import open_run
from mi_lens.runs.generate import run_generate
from mi_lens.runs.sweep import run_sweep
from mi_lens.runs.sweep_spec import Spec
from mi_lens.traces.trace_files import load_traces

QUESTIONS = ["Hi", "What is 3?", "So?"]
REQUESTS = [Request(question, max_new_tokens=4) for question in QUESTIONS]


def test_what_is_there_is_not_made_again(tiny_model, tmp_path):
    expected = generate(tiny_model, REQUESTS, progress=False)
    path = tmp_path / "traces.jsonl"
    new = []

    def keep(finished):
        assert load_traces(path)[-1] == finished.trace  # on disk by then
        new.append(finished.trace)

    def run(requests):
        new.clear()
        return generate_into(
            tmp_path, Plan(tiny_model), requests, batch_size=2, progress=False, on_finished=keep
        )

    assert run([REQUESTS[0], REQUESTS[1], REQUESTS[0]]) == [expected[i] for i in (0, 1, 0)]
    assert sorted(t.id for t in new) == sorted(t.id for t in expected[:2])
    path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote the second
    assert run(REQUESTS) == expected
    assert len(new) == 2
    assert len(read_jsonl(path)) == 3
    assert run(REQUESTS) == expected
    assert new == []


def test_without_a_folder_nothing_is_written(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    traces = generate_into(None, Plan(tiny_model), REQUESTS, batch_size=3, progress=False)
    assert traces == generate(tiny_model, REQUESTS, progress=False)
    assert list(tmp_path.iterdir()) == []


def abandon(*paths):
    """Leaves the temporary files of a process that was killed while it replaced these files."""
    program = (
        "import os, sys; from contextlib import ExitStack\n"
        "from mi_lens.common.files import replacing\n"
        "with ExitStack() as stack:\n"
        "    [stack.enter_context(replacing(path)) for path in sys.argv[1:]]\n"
        "    os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, *map(str, paths)], check=True)


def test_what_killed_runs_left_is_removed(tmp_path):
    config = GenerateConfig(out=tmp_path / "run")
    abandon(config.out / "run.json")
    assert len(list(config.out.iterdir())) == 1
    open_run(config, "m", "e", [], [])  # killed before run.json stood: the folder is still to begin
    assert [path.name for path in config.out.iterdir()] == ["run.json"]
    abandon(config.out / "report.html", config.out / "figures" / "words.svg")
    with replacing(config.out / "peaks.json") as ours:  # of a process that lives
        open_run(config, "m", "e", [], [])
        assert set(config.out.rglob(".*")) == {ours}


def test_two_processes_may_begin_a_run_together(tmp_path):
    config = GenerateConfig(out=tmp_path / "run")
    with replacing(config.out / "run.json") as partial:  # the other one's, which lives
        open_run(config, "m", "e", [], [])
        assert partial.exists()
        partial.write_bytes((config.out / "run.json").read_bytes())
    assert open_run(config, "m", "e", [], []) == config.out


def test_problems_of_one_id_are_refused_before_anything_is_generated(checkpoint, tmp_path):
    problems = tmp_path / "problems.jsonl"
    write_jsonl(problems, [{"id": "p", "question": q, "answer": "2"} for q in ("1 + 1?", "4 / 2?")])
    config = GenerateConfig(
        out=tmp_path / "run", model=str(checkpoint("llama")), problems=str(problems), device="cpu"
    )
    with pytest.raises(ValueError, match="problems: 'p' more than once"):
        run_generate(config)
    assert not config.out.exists()


def test_a_question_without_room_is_refused_before_the_folder_is_made(checkpoint, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"question": "1 + " * 200 + "1?", "answer": "201"}])
    common: dict[str, Any] = {
        "model": str(checkpoint("llama")),
        "problems": str(tmp_path / "p.jsonl"),
    }
    spec = Spec(models=(common["model"],), problems=common["problems"], conditions=("baseline",))
    evaluation = EvaluateConfig(out=tmp_path / "run", conditions=("baseline",), **common)
    commands = (lambda: run_evaluate(evaluation), lambda: run_sweep(spec, tmp_path / "run"))
    for command in commands:
        with pytest.raises(ValueError, match=r"its prompt has .* tokens and the model's context"):
            command()
        assert not (tmp_path / "run").exists()


def test_hooks_without_states_are_refused_before_anything_is_generated(checkpoint, tmp_path):
    write_jsonl(
        tmp_path / "p.jsonl", [{"question": "1 + 1?", "answer": "2", "solution": "It is 2"}]
    )
    for hook, message in (
        ("blocks.0.attn.hook_pattern", r"hook_pattern.*expected \(batch, pos, d\)"),
        ("blocks.0.ln1.hook_scale", "1 number per position"),
    ):
        config = mi_lens.AnalyzeConfig(
            out=tmp_path / "run",
            model=str(checkpoint("llama")),
            problems=str(tmp_path / "p.jsonl"),
            hook_names=(hook,),
            device="cpu",
        )
        with pytest.raises(ValueError, match=message):
            mi_lens.analyze(config)
        assert not config.out.exists()


def test_a_vector_replaced_by_another_makes_another_run(checkpoint, tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"question": "1 + 1?", "answer": "2"}])
    path = tmp_path / "vector.safetensors"

    def save(numbers):
        hook_name = "blocks.1.hook_resid_post"
        vector = torch.tensor(numbers)
        mi_lens.SteeringVector(hook_name, vector, "m", "made up", "none", {}, {}, None).save(path)

    common = {
        "model": str(checkpoint("llama")),
        "problems": str(tmp_path / "p.jsonl"),
        "max_new_tokens": 2,
        "device": "cpu",
    }
    steer = f"Steer({str(path)!r}, at='all')"
    commands = (
        lambda: run_generate(
            GenerateConfig(out=tmp_path / "generate", intervene=(steer,), **common)
        ),
        lambda: run_evaluate(
            EvaluateConfig(out=tmp_path / "evaluate", conditions=(f"s={steer}",), **common)
        ),
    )
    for command in commands:
        save([1.0] * 32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the vector is of another model
            command()
            save([2.0] * 32)
            with pytest.raises(FileExistsError, match=r"another run .*content of conditions"):
                command()
