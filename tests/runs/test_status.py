"""What `mi-lens status` says of every kind of run, against what is in the folder."""

import os

import pytest

from mi_lens.cli import main
from mi_lens.common.files import write_jsonl
from mi_lens.common.records import DamagedError
from mi_lens.common.writing import writing
from mi_lens.runs.analyze import analyze
from mi_lens.runs.config import AnalyzeConfig, EvaluateConfig, GenerateConfig
from mi_lens.runs.evaluate import run_evaluate
from mi_lens.runs.generate import run_generate
from mi_lens.runs.status import RunProgress, status
from mi_lens.runs.sweep import run_sweep
from mi_lens.runs.sweep_folder import SweepProgress
from mi_lens.runs.sweep_spec import Spec

HOOKS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")


@pytest.fixture
def settings(checkpoint, tmp_path):
    problems = tmp_path / "problems.jsonl"
    write_jsonl(
        problems,
        [
            {"question": f"{i} + 12?", "answer": str(i + 12), "solution": f"{i + 12}"}
            for i in range(3)
        ],
    )
    return {
        "model": str(checkpoint("llama")),
        "problems": str(problems),
        "out": tmp_path / "run",
        "max_new_tokens": 12,
        "device": "cpu",
    }


def progress_of(folder) -> RunProgress:
    progress = status(folder).progress
    assert isinstance(progress, RunProgress)
    return progress


def drop_last_row(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def test_generate(settings, capsys):
    config = GenerateConfig(**settings)
    run_generate(config)
    progress = progress_of(config.out)
    assert (progress.command, progress.traces, progress.asked) == ("generate", 3, 3)
    assert progress.finished is True
    drop_last_row(config.out / "traces.jsonl")
    with pytest.raises(
        DamagedError, match=r"traces\.jsonl: holds 2 of 3 records of a finished run"
    ):
        status(config.out)
    (config.out / "generated.json").unlink()
    with (config.out / "traces.jsonl").open("ab") as file:
        file.write(b'{"id": "torn')
    main(["status", str(config.out)])
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == f"mi-lens generate: {config.model} on {config.problems} (test)"
    assert (second, third) == ("2 of 3 traces", "finished: no")
    assert last.startswith("no process on this machine writes to it; last write 20")


def test_analyze(settings):
    config = AnalyzeConfig(**settings, hook_names=HOOKS)
    analyze(config, progress=False)
    progress = progress_of(config.out)
    assert progress.counts == {"with states": 3, "measured": 3, "measurements": 6}
    assert progress.finished
    (config.out / "thinking_tokens.json").unlink()
    drop_last_row(config.out / "readings.jsonl")
    next((config.out / "activations").glob("*.safetensors")).unlink()
    progress = progress_of(config.out)
    assert progress.counts == {"with states": 2, "measured": 2, "measurements": 4}
    assert progress.finished is False
    assert "3 of 3 traces, 2 with states, 2 measured, 4 measurements" in str(progress)


def test_evaluate(settings):
    config = EvaluateConfig(**settings, conditions=("a", "b=Suppress(['is'])"), seeds=(0, 1))
    run_evaluate(config)
    progress = progress_of(config.out)
    assert (progress.traces, progress.asked, progress.counts) == (12, 12, {"graded": 12})
    assert progress.finished
    drop_last_row(config.out / "results.jsonl")
    (config.out / "evaluation.json").unlink()
    progress = progress_of(config.out)
    assert "12 of 12 traces, 11 graded\nfinished: no" in str(progress)


def test_a_sweep(settings):
    folder = settings["out"]
    known = {k: settings[k] for k in ("problems", "max_new_tokens", "device")}
    run_sweep(Spec(**known, models=(settings["model"],), conditions=("a",), unit=2), folder)
    progress = status(folder).progress
    assert isinstance(progress, SweepProgress)
    assert f"{settings['model']} on {settings['problems']}\n2 of 2 units done" in str(progress)
    assert str(progress).endswith("finished: yes")
    next(folder.glob("units/*/done.json")).unlink()
    assert "finished: no; left for one process: " in str(status(folder))


def test_a_process_that_writes_and_the_last_write_are_told(settings):
    config = GenerateConfig(**settings)
    run_generate(config)
    with writing(config.out / "run.json"):
        assert "a process writes to it now" in str(status(config.out))
    for path in [config.out, *config.out.iterdir()]:
        os.utime(path, (1e9, 1e9))
    os.utime(config.out / "traces.jsonl", (1e9 + 5, 1e9 + 5))
    assert status(config.out).last_write == 1e9 + 5


def test_a_run_is_written_while_it_runs(settings, monkeypatch):
    seen = []

    def watched(folder, *_, **__):
        seen.append(status(folder).written)
        return []

    monkeypatch.setattr("mi_lens.runs.generate.generate_into", watched)
    run_generate(GenerateConfig(**settings))
    assert seen == [True]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run of mi-lens"):
        status(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        status(tmp_path / "nowhere")
