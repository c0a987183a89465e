"""mi-lens train-lens: a folder that survives a kill, and what it says of both lenses."""

import json
from dataclasses import replace

import pytest
import torch

from mi_lens.cli import main
from mi_lens.common.records import read_record, read_records, write_record
from mi_lens.information.lenses import training
from mi_lens.information.lenses.divergence import lens_divergences
from mi_lens.information.lenses.tuned_lens import TunedLens
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from mi_lens.runs.check import check
from mi_lens.runs.lens_config import TrainLensConfig
from mi_lens.runs.status import status
from mi_lens.runs.train_lens import LensReport, run_train_lens, split_by_problem
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import load_traces, save_traces


@pytest.fixture(scope="module")
def traces(tokenizer):
    """Eight traces of four problems."""
    problems = [Problem(f"p{i}", f"What is {i} * 7?", str(7 * i)) for i in range(4)]
    texts = ("Wait, let me check. It is 12.", "So the box is 84.")
    return [Trace.from_text(tokenizer, p, text) for p in problems for text in texts]


@pytest.fixture
def config(traces, checkpoint, tmp_path):
    save_traces(traces, tmp_path / "traces.jsonl")
    return TrainLensConfig(
        traces=tmp_path / "traces.jsonl",
        out=tmp_path / "lens",
        model=str(checkpoint("qwen2")),
        dtype="float64",
        device="cpu",
        updates=4,
        traces_per_update=3,
        held_out=0.5,
    )


def test_a_lens_by_the_command_line(config, traces, capsys):
    settings = ["--updates", "4", "--traces-per-update", "3", "--held-out", "0.5"]
    place = ["--model", config.model, "--dtype", "float64", "--device", "cpu"]
    command = ["train-lens", str(config.traces), "--out", str(config.out), *settings, *place]
    main(command)
    said = capsys.readouterr().out
    assert "on 2 problems held out" in said
    assert "blocks.0.hook_resid_post: logit lens" in said
    report = LensReport.load(config.out)
    assert str(report) in said
    assert "tuned lens, bits" in report._repr_html_()
    model = load(config.model, dtype="float64", device="cpu")
    train, held_out = split_by_problem(traces, 0.5, 0)
    assert set(report.lens.problems.values()) == {t.require_problem("to name it").id for t in train}
    assert set(report.held_out) == {t.require_problem("to name it").id for t in held_out}
    assert not set(report.held_out) & set(report.lens.problems.values())
    rows = read_records(config.out / "divergences.jsonl")
    assert [row["trace"] for row in rows] == [t.id for t in held_out]
    again = lens_divergences(model, report.lens, held_out[0])
    assert rows[0]["divergences"] == {k: pytest.approx(list(v)) for k, v in again.items()}
    logit = [row["divergences"]["blocks.0.hook_resid_post"][0] for row in rows]
    found = report.divergences["blocks.0.hook_resid_post"]
    assert found.logit.mean == pytest.approx(sum(logit) / len(logit))
    assert found.logit.n == 2
    assert not (config.out / "training.safetensors").exists()
    assert "4 of 4 updates saved, 4 traces compared\nfinished: yes" in str(status(config.out))
    assert check(config.out).damages == ()
    main(command)  # is finished, and nothing is trained again
    assert str(report) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--seed", "1"])
    assert "config.seed was 0, now 1" in capsys.readouterr().err


def test_a_run_that_is_killed_ends_as_one_that_is_not(config, monkeypatch, tmp_path):
    whole = run_train_lens(replace(config, out=tmp_path / "whole"))
    monkeypatch.setattr(training, "SAVED_EVERY", 0.0)
    learn = training._Fit.learn
    killed = []

    def until_killed(self, states, update):
        if update == 2 and not killed:
            killed.append(update)
            raise KeyboardInterrupt
        learn(self, states, update)

    monkeypatch.setattr(training._Fit, "learn", until_killed)
    with pytest.raises(KeyboardInterrupt):
        run_train_lens(config)
    assert "2 of 4 updates saved, 0 traces compared\nfinished: no" in str(status(config.out))
    assert check(config.out).damages == ()
    found = run_train_lens(config)
    assert torch.equal(found.lens.weight, whole.lens.weight)
    assert found.divergences == whole.divergences


def test_what_was_damaged_is_made_again(config):
    report = run_train_lens(config)
    path = config.out / "lens.safetensors"
    text = bytearray(path.read_bytes())
    text[-1] ^= 1
    path.write_bytes(text)
    (damage,) = check(config.out).damages
    assert "its numbers were altered" in damage
    with pytest.warns(UserWarning, match="set aside as lens.safetensors.damaged"):
        again = run_train_lens(config)
    assert torch.equal(again.lens.weight, report.lens.weight)
    path.unlink()
    assert "missing from a finished run" in check(config.out).damages[0]


def test_a_lens_of_a_folder_of_traces(config, traces, tmp_path):
    folder = tmp_path / "written"
    folder.mkdir()
    save_traces(traces, folder / "traces.jsonl")
    assert load_traces(folder / "traces.jsonl") == traces
    report = run_train_lens(replace(config, traces=folder))
    assert read_record(config.out)["config"]["traces"] == "written"
    assert TunedLens.load(config.out / "lens.safetensors").problems == report.lens.problems
    with pytest.raises(FileNotFoundError, match="holds no traces"):
        run_train_lens(replace(config, traces=tmp_path / "nothing"))


def test_what_cannot_be_trained_on_leaves_no_folder(config, traces):
    save_traces(traces[:2], config.traces)
    with pytest.raises(ValueError, match="2 traces of 1 problems"):
        run_train_lens(config)
    empty = replace(traces[0], id="empty", token_ids=(), text="")
    save_traces([*traces, empty], config.traces)
    with pytest.raises(ValueError, match="is empty"):
        run_train_lens(config)
    save_traces(traces, config.traces)
    with pytest.raises(ValueError, match="the model has 3 layers"):
        run_train_lens(replace(config, hook_names=("blocks.9.hook_resid_post",)))
    assert not config.out.exists()


def test_traces_of_a_problem_are_on_one_side(traces):
    for seed in range(5):
        for share in (0.01, 0.3, 0.99):
            train, held_out = split_by_problem(traces, share, seed)
            sides = [
                {t.require_problem("to name it").key for t in side} for side in (train, held_out)
            ]
            assert all(sides)
            assert not sides[0] & sides[1]
            assert len(train) + len(held_out) == len(traces)
    assert split_by_problem(traces, 0.5, 0) == split_by_problem(traces, 0.5, 0)


def test_settings_are_refused_by_name(config):
    with pytest.raises(ValueError, match=r"held_out=1\.0: expected a share between 0 and 1"):
        replace(config, held_out=1.0)
    with pytest.raises(ValueError, match="batch_size=0"):
        replace(config, batch_size=0)


def test_a_lens_of_another_version_of_the_record_is_told(config):
    run_train_lens(config)
    record = read_record(config.out)
    write_record(config.out / "run.json", json.loads(json.dumps(record | {"model": "other"})))
    with pytest.raises(FileExistsError, match="model was 'other'"):
        run_train_lens(config)
