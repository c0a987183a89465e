import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

from mi_lens.cli import main
from mi_lens.common.files import write_jsonl
from mi_lens.evaluation.evaluate import evaluate
from mi_lens.interventions.vector import SteeringVector, save_vectors
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.runs.sweep import Worker, results, run_sweep
from mi_lens.runs.sweep_folder import open_sweep, sweep_progress, units, waiting
from mi_lens.runs.sweep_spec import Spec
from tests.generation.engines.renamed import RenamedEngine
from tests.processes import start

YAML = """
models: {models}
problems: {problems}
conditions:
  - baseline
  - quiet=Suppress(['so', 'the'])
  - rr{{layer}}x{{passes}}=Recycle({{layer}}, ['is', 'in', 'an'], {{passes}})
grid:
  layer: [0, 2]
  passes: [1, 2]
max_new_tokens: 8
unit: 2
dtype: float64
device: cpu
"""


@pytest.fixture
def folder(checkpoint, tmp_path):
    write_jsonl(
        tmp_path / "problems.jsonl",
        [
            {"id": f"p{i}", "question": f"What is {i} + 12?", "answer": str(i + 12)}
            for i in range(5)
        ],
    )
    models = [str(checkpoint("llama")), str(checkpoint("qwen3"))]
    text = YAML.format(models=models, problems=tmp_path / "problems.jsonl")
    (tmp_path / "spec.yaml").write_text(text)
    return tmp_path


def rows(evaluations):
    return {
        model: [replace(r, seconds=None) for r in evaluation.results]
        for model, evaluation in evaluations.items()
    }


def test_a_sweep_is_what_its_evaluations_are(folder):
    spec = Spec.read(folder / "spec.yaml")
    names = ["baseline", "quiet", "rr0x1", "rr0x2", "rr2x1", "rr2x2"]
    assert [condition.name for condition in spec.expand()] == names
    evaluations = run_sweep(spec, folder / "out")
    problems = load_problems(folder / "problems.jsonl")
    assert list(evaluations) == list(spec.models)
    for model, evaluation in evaluations.items():
        alone = evaluate(
            load(model, dtype="float64", device="cpu"),
            problems,
            spec.expand(),
            max_new_tokens=8,
            progress=False,
        )
        order = {name: i for i, name in enumerate(names)}
        expected = sorted(alone.results, key=lambda r: order[r.condition])
        assert rows({model: evaluation})[model] == [replace(r, seconds=None) for r in expected]
        assert evaluation.setting == alone.setting
    assert len(list((folder / "out" / "units").iterdir())) == 6
    done = sweep_progress(folder / "out")
    assert (done.units, done.done, done.traces, done.expected) == (6, 6, 60, 60)
    assert done.seconds_left == 0


def test_what_is_done_is_not_done_again(folder, monkeypatch):
    spec = Spec.read(folder / "spec.yaml")
    evaluations = run_sweep(spec, folder / "out")
    assert not waiting(spec, folder / "out", 5)
    monkeypatch.setattr("mi_lens.models.loading.load", None)
    assert run_sweep(spec, folder / "out") == evaluations


def test_a_failed_unit_is_named_and_tried_again(folder, monkeypatch):
    spec = replace(Spec.read(folder / "spec.yaml"), unit=5)
    broken = spec.models[1]

    def breaking(name, **settings):
        if name == broken:
            raise OSError("the disk is gone")
        return load(name, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("mi_lens.models.loading.load", breaking)
        with pytest.raises(RuntimeError, match=r"1 units failed.*the disk is gone"):
            run_sweep(spec, folder / "out")
    half = sweep_progress(folder / "out")
    assert (half.done, half.traces) == (1, 30)
    assert list(half.failed.values()) == ["OSError: the disk is gone"]
    assert "failed" in str(half)
    assert list(results(folder / "out")) == [spec.models[0]]
    assert list(run_sweep(spec, folder / "out")) == list(spec.models)
    assert not sweep_progress(folder / "out").failed


def test_a_changed_checkpoint_is_named(folder, new_checkpoint):
    path = new_checkpoint("llama")
    spec = replace(Spec.read(folder / "spec.yaml"), models=(str(path),), unit=3)
    run_sweep(spec, folder / "out")
    (last,) = (folder / "out" / "units").glob("*-000003/done.json")
    last.unlink()
    new_checkpoint("llama", rms_norm_eps=0.1, num_hidden_layers=3, hidden_size=48)
    with pytest.raises(RuntimeError, match="the checkpoint has changed"):
        run_sweep(spec, folder / "out")


def test_results_of_a_unit_under_way_count_by_whole_problems(folder):
    spec = replace(
        Spec.read(folder / "spec.yaml"), models=Spec.read(folder / "spec.yaml").models[:1]
    )
    whole = run_sweep(spec, folder / "out")
    (unit, *_) = units(spec, folder / "out", 5)
    lines = (unit.folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    (unit.folder / "done.json").unlink()
    kept = [line for line in lines if b'"p0"' in line] + [b'{"problem": "p1", "torn']
    (unit.folder / "results.jsonl").write_bytes(b"".join(kept))
    (evaluation,) = results(folder / "out").values()
    assert {r.problem for r in evaluation.results} == {"p0", "p2", "p3", "p4"}
    assert rows(run_sweep(spec, folder / "out")) == rows(whole)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            "rr{layer}=Recycle({layer}, ['is'])",
            "'rr7': layer='blocks.7.hook_resid_post': the model has 3",
        ),
        (
            "s=Steer('v.safetensors', 'blocks.1.hook_resid_pots')",
            "'s': hook 'blocks.1.hook_resid_pots' does not exist .* near: blocks.1.hook_resid_post",
        ),
    ],
)
def test_what_does_not_fit_a_model_is_refused_before_anything_runs(
    folder, condition, message, monkeypatch
):
    monkeypatch.chdir(folder)
    hook = "blocks.1.hook_resid_pots"
    vector = SteeringVector(hook, torch.ones(32), "m", "E-RT", "seal", {}, {}, None)
    save_vectors([vector], "v.safetensors")
    spec = Spec.read(folder / "spec.yaml")
    conditions = ("baseline", condition)
    monkeypatch.setattr("mi_lens.models.loading.load", None)  # no weights are read
    with pytest.raises(ValueError, match=message):
        run_sweep(replace(spec, conditions=conditions, grid={"layer": (1, 7)}), folder / "out")
    assert not (folder / "out").exists()


def test_a_sweep_tells_its_progress_in_traces(folder, monkeypatch, capsys):
    monkeypatch.setattr("mi_lens.common.progress.INTERVAL", 0.0)
    monkeypatch.setattr("mi_lens.common.progress.SHORT", 0.0)
    spec = Spec.read(folder / "spec.yaml")
    spec = replace(spec, models=spec.models[:1], conditions=("baseline",))

    def told(**settings):
        run_sweep(spec, folder / "out", **settings)
        lines = capsys.readouterr().err.splitlines()
        return [line.split(" traces")[0] for line in lines if line.startswith("sweep: ")]

    assert told() == [f"sweep: {i} of 5" for i in range(1, 6)]
    (first, *_) = units(spec, folder / "out", 5)
    (first.folder / "done.json").unlink()
    kept = (first.folder / "results.jsonl").read_bytes().splitlines(keepends=True)[:-1]
    (first.folder / "results.jsonl").write_bytes(b"".join(kept))
    assert told() == ["sweep: 5 of 5"]  # four were there
    assert told(progress=False) == []


def test_another_sweep_is_refused(folder):
    spec = Spec.read(folder / "spec.yaml")
    inputs = Worker(spec).inputs
    open_sweep(spec, folder / "out", inputs)
    open_sweep(replace(spec, batch_size=3), folder / "out", inputs)
    with pytest.raises(FileExistsError, match="other max_new_tokens"):
        run_sweep(replace(spec, max_new_tokens=9), folder / "out")
    with pytest.raises(FileExistsError, match="holds no run of mi-lens"):
        open_sweep(spec, folder, inputs)
    with pytest.raises(FileNotFoundError, match=r"no sweep\.json"):
        sweep_progress(folder)


def test_the_commands(folder, capsys):
    out = str(folder / "out")
    main(["sweep", str(folder / "spec.yaml"), "--out", out])
    table = capsys.readouterr().out
    assert table.count("rr2x1") >= 4
    main(["status", out])
    assert "6 of 6 units done, 60 of 60 traces" in capsys.readouterr().out
    main(["results", out, "--against", "quiet"])
    assert "differences from 'quiet'" in capsys.readouterr().out
    table = pandas.read_parquet(folder / "out" / "results.parquet")
    assert len(table) == 60
    assert set(table["condition"]) == {"baseline", "quiet", "rr0x1", "rr0x2", "rr2x1", "rr2x2"}
    assert table["thoughts.execution"].dtype.kind == "i"
    recycled = table[table["condition"].str.startswith("rr")]
    assert (
        recycled["condition"]
        == recycled.apply(lambda row: f"rr{row['layer']:.0f}x{row['passes']:.0f}", axis=1)
    ).all()
    quiet = table.loc[table["condition"] == "quiet", ["layer", "passes"]]
    assert quiet.isna().to_numpy().all()
    main(["results", out, "--plot", str(folder / "curves")])
    assert capsys.readouterr().out.count("Curves: ") == 6
    for model in Spec.read(folder / "spec.yaml").models:
        path = folder / "curves" / f"{Path(model).name}_rr-layer-x-passes.json"
        curves = json.loads(path.read_text())
        assert curves["names"] == ["layer", "passes"]
        for at, accuracy in zip(curves["values"], curves["accuracy"], strict=True):
            of_point = table[
                (table["model"] == model)
                & (table["layer"] == at["layer"])
                & (table["passes"] == at["passes"])
            ]
            assert accuracy["mean"] == of_point["correct"].mean()
            assert accuracy["n"] == 5
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main(["status", str(folder / "nowhere")])
    assert "no such folder" in capsys.readouterr().err


def spec_of(folder, **changes):
    """A sweep of the baseline on Hugging Face's generate, as a file."""
    settings = {
        "models": list(Spec.read(folder / "spec.yaml").models),
        "problems": str(folder / "problems.jsonl"),
        "conditions": ["baseline"],
        "engine": "huggingface",
        "engine_options": ["attn_implementation='eager'"],
        "max_new_tokens": 8,
        "unit": 2,
        "batch_size": 1,
        "device": "cpu",
    }
    path = folder / "other.yaml"
    path.write_text(json.dumps(settings | changes))  # JSON is YAML
    return path


@pytest.mark.slow
def test_a_sweep_on_another_engine_goes_on_after_a_kill(folder):
    path, killed = spec_of(folder), folder / "killed"
    for sign in ("units/*/traces.jsonl", "units/*-000002/traces.jsonl", None):
        process = start(main, ["sweep", str(path), "--out", str(killed)])
        while sign and process.is_alive() and not any(killed.glob(sign)):
            time.sleep(0.002)
        if sign:
            process.kill()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if sign else 0)
    whole = run_sweep(Spec.read(path), folder / "whole")
    assert rows(results(killed)) == rows(whole)
    for unit in (folder / "whole" / "units").iterdir():
        lines = [
            sorted((out / "units" / unit.name / "traces.jsonl").read_text().splitlines())
            for out in (killed, folder / "whole")
        ]
        assert lines[0] == lines[1]
    ours = run_sweep(
        replace(Spec.read(path), engine="transformer_lens", engine_options=()), folder / "ours"
    )
    for model, evaluation in whole.items():
        assert [r.tokens for r in evaluation.results] == [r.tokens for r in ours[model].results]
        assert evaluation.setting["engine"].endswith("attn_implementation='eager'")


def test_what_an_engine_does_not_do_is_refused_before_the_folder_is_made(folder, monkeypatch):
    monkeypatch.setattr("mi_lens.models.loading.load_outline", None)
    spec = Spec.read(spec_of(folder, conditions=["baseline", "quiet=Suppress(['so'])"]))
    with pytest.raises(ValueError, match="condition 'quiet' asks for interventions, which need"):
        run_sweep(spec, folder / "out")
    with pytest.raises(ValueError, match="condition 'baseline' asks for sampling"):
        run_sweep(replace(Spec.read(spec_of(folder)), temperature=0.7), folder / "out")
    assert not (folder / "out").exists()


def test_an_engine_is_closed_before_the_next_is_loaded(folder, monkeypatch):
    happened = []

    def loading(name, engine, **settings):
        happened.append(f"load {Path(name).name}")
        loaded = RenamedEngine(load(name, device="cpu"))
        loaded.name = engine
        monkeypatch.setattr(loaded, "close", lambda: happened.append(f"close {Path(name).name}"))
        return loaded

    monkeypatch.setattr("mi_lens.generation.engines.lookup.load_engine", loading)
    spec = Spec.read(spec_of(folder, engine_options=[]))
    evaluations = run_sweep(spec, folder / "out")
    first, second = (Path(model).name for model in spec.models)
    assert happened == [f"load {first}", f"close {first}", f"load {second}", f"close {second}"]
    assert {e.setting["engine"] for e in evaluations.values()} == {"huggingface"}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_ray_cluster_of_which_a_worker_is_lost(folder):
    ray = pytest.importorskip("ray")
    from mi_lens.runs.sweep_on_ray import run_sweep_on_ray

    spec = replace(Spec.read(folder / "spec.yaml"), unit=1)
    alone = run_sweep(spec, folder / "alone")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed: list[int] = []

    def kill_a_worker():
        while not list((folder / "ray").glob("units/*/traces.jsonl")):
            time.sleep(0.05)
        workers = [
            int(p.name)
            for p in Path("/proc").iterdir()
            if p.name.isdigit() and (p / "cmdline").read_bytes().startswith(b"ray::Worker")
        ]
        os.kill(workers[0], signal.SIGKILL)
        killed.append(workers[0])

    try:
        thread = threading.Thread(target=kill_a_worker)
        thread.start()
        evaluations = run_sweep_on_ray(spec, folder / "ray", workers=2)
        thread.join()
    finally:
        ray.shutdown()
    assert killed
    assert rows(evaluations) == rows(alone)
    done = sorted((folder / "ray" / "units").glob("*/done.json"))
    assert len(done) == 10
    assert len({json.loads(path.read_text())["fingerprint"] for path in done}) == 2


@pytest.mark.filterwarnings("ignore:a steering vector of model m:UserWarning")
def test_changed_inputs_are_refused_and_lost_ones_are_not_needed(folder, capsys):
    d = load(Spec.read(folder / "spec.yaml").models[0], device="cpu").cfg.d_model
    vector = SteeringVector(
        "blocks.1.hook_resid_post", torch.ones(d), "m", "r", "seal", {}, {}, None
    )
    vectors, problems = folder / "v.safetensors", folder / "problems.jsonl"
    save_vectors([vector], vectors)
    text = (folder / "spec.yaml").read_text()
    steer = f"steered=Steer('{vectors}', 'blocks.1.hook_resid_post')"
    text = text.replace("  - baseline\n", f"  - baseline\n  - {steer}\n")
    (folder / "spec.yaml").write_text(text)
    spec, out = Spec.read(folder / "spec.yaml"), folder / "out"
    before = run_sweep(spec, out)
    (folder / "kept").mkdir()
    for path in (vectors, problems):
        path.rename(folder / "kept" / path.name)
    assert rows(results(out)) == rows(before)  # neither file is needed to read a sweep
    main(["status", str(out)])
    assert "70 of 70 traces" in capsys.readouterr().out
    main(["results", str(out)])
    assert "steered" in capsys.readouterr().out
    for path in (vectors, problems):
        (folder / "kept" / path.name).rename(path)
    save_vectors([replace(vector, vector=2 * vector.vector)], vectors)
    with pytest.raises(FileExistsError, match=r"other content of conditions\.steered"):
        run_sweep(Spec.read(folder / "spec.yaml"), out)
    save_vectors([vector], vectors)
    problems.write_text(problems.read_text().replace('"answer": "12"', '"answer": "13"'))
    with pytest.raises(FileExistsError, match=r"other content of problems\.content"):
        run_sweep(spec, out)
    worker = Worker(spec)
    (unit, *_) = units(spec, out, 5)
    with pytest.raises(ValueError, match="not what the sweep began with"):
        worker.run(unit)
