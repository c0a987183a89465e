"""The whole way of the data on a random tiny Llama: it knows nothing, everything else is real."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

import mi_lens.runs.measure
from mi_lens.cli import main
from mi_lens.common.files import read_jsonl, write_jsonl
from mi_lens.common.records import read_record, write_record
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load, load_tokenizer
from mi_lens.report.findings import findings
from mi_lens.report.page import write_report
from mi_lens.runs.analysis import Analysis
from mi_lens.runs.analyze import analyze
from mi_lens.runs.config import AnalyzeConfig, GenerateConfig
from mi_lens.runs.generate import run_generate
from mi_lens.states.answer_state import answer_state
from mi_lens.states.shard import load_activations
from mi_lens.traces.trace_files import load_traces
from tests.generation.engines.pretend_reader import PretendReader
from tests.generation.engines.renamed import RenamedEngine
from tests.processes import result_of, start

HOOKS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
RECYCLED = f"Recycle(1, {tuple(range(0, 384, 3))}, trigger='consumed')"
PROBLEMS = [
    {
        "id": f"p{i}",
        "question": f"What is {i} + 12?",
        "answer": str(i + 12),
        "solution": f"{i} + 12 = {i + 12}",
    }
    for i in range(5)
]


@pytest.fixture(scope="module")
def config(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_jsonl(folder / "problems.jsonl", PROBLEMS)
    return AnalyzeConfig(
        model=str(checkpoint("llama")),
        problems=str(folder / "problems.jsonl"),
        out=folder / "run",
        max_new_tokens=24,
        hook_names=HOOKS,
        batch_size=2,
        dtype="float64",
        device="cpu",
    )


@pytest.fixture(scope="module")
def analysis(config):
    return analyze(config)


def contents(folder):
    """Every result file of a run, in an order that does not depend on when a row finished."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".jsonl":
            files[path.name] = sorted(path.read_text().splitlines())
        elif path.suffix == ".json":
            files[path.name] = path.read_bytes()
        elif path.suffix == ".safetensors":  # The order of their metadata is not fixed.
            files[path.name] = {k: v.tolist() for k, v in load_activations(path).items()}
    return files


def test_what_is_on_disk_is_what_was_found(config, analysis):
    traces = load_traces(config.out / "traces.jsonl")
    assert {t.id for t in traces} == {t.id for t in analysis.traces}
    assert [t.problem.id for t in analysis.traces] == [p["id"] for p in PROBLEMS]
    rows = read_jsonl(config.out / "readings.jsonl")
    assert {row["trace"] for row in rows} == {t.id for t in traces} == set(analysis.measurements)
    read = {row["trace"]: row["readings"] for row in rows}
    model = load(config.model, dtype="float64", device="cpu")
    for trace in analysis.traces:
        states = load_activations(config.out / "activations" / f"{trace.id}.safetensors")
        answer = answer_state(model, trace.problem, HOOKS)
        for name in HOOKS:
            assert states[name].shape == (len(trace), 32)
            mi = hsic_mi(states[name], answer[name])
            np.testing.assert_allclose(analysis.mi(trace, name), mi.numpy(), rtol=1e-12)
            assert read[trace.id][name]["mi"] == analysis.mi(trace, name)
            assert analysis.peaks(trace, name) == find_peaks(mi).tolist()
    peaks = json.loads((config.out / "peaks.json").read_text())
    assert len(peaks["peaks"]) == 2 * len(PROBLEMS)
    assert peaks["summaries"][0]["peaks"] == np.mean(
        [row["count"] for row in peaks["peaks"] if row["hook_name"] == HOOKS[0]]
    )
    assert peaks["summaries"][0]["accuracy"] == 0
    words = json.loads((config.out / "thinking_tokens.json").read_text())
    assert words[HOOKS[1]]["peaks"] == sum(len(analysis.peaks(t, HOOKS[1])) for t in traces)


def test_specific_peaks_are_unknown_with_four_other_answers(config, analysis):
    assert {analysis.specific_peaks(t, n) for t in analysis.traces for n in HOOKS} == {None}
    peaks = json.loads((config.out / "peaks.json").read_text())
    assert {row["specific_peaks"] for row in peaks["peaks"]} == {None}
    controls = json.loads((config.out / "controls.json").read_text())
    assert controls[HOOKS[0]]["mismatch"]["peaks"] is None
    shown = findings({"a": analysis, "b": replace(analysis, hook_names=HOOKS[::-1])})
    assert "unknown: 4 other answers, and it takes 19" in shown
    # The table is of the last block, in whichever order the hook names were given.
    (line,) = (row for row in shown.splitlines() if row.startswith("hook name"))
    assert line.split()[2:] == [HOOKS[1], HOOKS[1]]
    page = write_report([config.out], config.out.parent / "page.html").read_text()
    assert "cannot be known from 4 other answers" in page
    assert "unknown: 4 other answers, and it takes 19" in page


def test_a_notebook_shows_the_summaries(analysis):
    shown = analysis._repr_html_()
    assert all(name in shown for name in analysis.hook_names)
    assert f">{analysis.summary(analysis.hook_names[0])['mi']:.4g}<" in shown


def test_the_same_command_computes_nothing_again(config, analysis, monkeypatch):
    before = contents(config.out)
    monkeypatch.setattr("mi_lens.generation.resume.stream", None)
    monkeypatch.setattr("mi_lens.states.capture_to_disk.StateStore._capture_batch", None)
    again = analyze(config)
    assert again.tokens == analysis.tokens
    assert contents(config.out) == before


@pytest.mark.parametrize("intervene", [(), (RECYCLED,)])
def test_states_need_not_be_kept(config, analysis, tmp_path, monkeypatch, intervene):
    """Number for number the same results, whether states are kept, or measured and dropped."""
    monkeypatch.setattr("mi_lens.states.by_hook.HELD", 24 * 32 * 8)  # one hook name at a time
    kept = analysis
    if intervene:
        config = replace(config, limit=2, intervene=intervene)
        kept = analyze(replace(config, out=tmp_path / "kept"))
        assert any(trace.events for trace in kept.traces)
    monkeypatch.setattr("mi_lens.runs.measure.StateStore", None)
    dropped = analyze(replace(config, keep_states=False, out=tmp_path / "run"))
    mine, theirs = contents(tmp_path / "run"), contents(kept.config.out)
    assert not (tmp_path / "run" / "activations").exists()
    assert {*theirs} - {*mine} == {f"{trace.id}.safetensors" for trace in kept.traces}
    for name in mine.keys() - {"run.json"}:
        assert mine[name] == theirs[name], name
    trace = dropped.traces[0]
    assert torch.equal(
        kept.states(trace, HOOKS[1]),
        load_activations(kept.config.out / "activations" / f"{trace.id}.safetensors")[HOOKS[1]],
    )
    for read in (dropped, Analysis.load(tmp_path / "run")):
        with pytest.raises(ValueError, match=r"not kept \(keep_states=False\); analyse"):
            read.states(trace, HOOKS[1])
    write_report([tmp_path / "run"], tmp_path / "page.html")


def test_what_needs_states_later_refuses_to_keep_none(config, tmp_path, capsys):
    with pytest.raises(ValueError, match="keep_states=False: readout='logit_lens' decodes"):
        replace(config, keep_states=False, readout="logit_lens")
    command = ["analyze", "--out", str(tmp_path / "run"), "--no-keep-states"]
    with pytest.raises(SystemExit):
        main([*command, "--readout", "logit_lens"])
    assert "keep_states=False: readout='logit_lens' decodes" in capsys.readouterr().err


def test_batch_size_is_immaterial(config, analysis, tmp_path):
    other = analyze(replace(config, batch_size=5, out=tmp_path / "run"))
    assert other.traces == analysis.traces
    for trace in other.traces:
        for name in HOOKS:
            np.testing.assert_allclose(
                other.mi(trace, name), analysis.mi(trace, name), rtol=1e-9, atol=1e-12
            )


def test_a_lost_activation_file_is_made_again(config, analysis):
    path = config.out / "activations" / f"{analysis.traces[2].id}.safetensors"
    states = load_activations(path)
    path.unlink()
    analyze(config)
    for name, state in load_activations(path).items():
        assert torch.equal(state, states[name])


def run_killed(command, out):
    """Killed when the first trace is there, then when the first states are, then left alone."""
    for sign in ("traces.jsonl", "activations/*.safetensors", None):
        process = start(main, command)
        while sign and process.is_alive() and not any(out.glob(sign)):
            time.sleep(0.002)
        if sign:
            process.kill()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if sign else 0)


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_end(config, analysis, tmp_path):
    out = tmp_path / "run"
    command = ["analyze", "--out", str(out)]
    for field in ("model", "problems", "max_new_tokens", "batch_size", "dtype", "device"):
        command += [f"--{field.replace('_', '-')}", str(getattr(config, field))]
    command += ["--hook-names", *HOOKS]
    run_killed(command, out)
    mine, undisturbed = contents(out), contents(config.out)
    assert mine["traces.jsonl"] == undisturbed["traces.jsonl"]
    assert mine["peaks.json"] == undisturbed["peaks.json"]
    assert mine["thinking_tokens.json"] == undisturbed["thinking_tokens.json"]
    assert mine.keys() >= undisturbed.keys()


@pytest.mark.slow
def test_traces_of_another_engine_are_read_by_the_model(config, tmp_path):
    """Killed when the first trace is there, and when the model has begun to read."""
    out = tmp_path / "run"
    other = replace(config, out=out, engine="huggingface")
    command = ["analyze", "--out", str(out), "--engine", "huggingface"]
    for field in ("model", "problems", "max_new_tokens", "batch_size", "dtype", "device"):
        command += [f"--{field.replace('_', '-')}", str(getattr(config, field))]
    command += ["--hook-names", *HOOKS]
    run_killed(command, out)
    ours, theirs = analyze(config), analyze(other)
    assert [t.token_ids for t in theirs.traces] == [t.token_ids for t in ours.traces]
    for our, their in zip(ours.traces, theirs.traces, strict=True):
        for name in HOOKS:
            np.testing.assert_allclose(ours.mi(our, name), theirs.mi(their, name), rtol=1e-9)
    run = read_record(out)
    model = load(config.model, dtype="float64", device="cpu")
    assert run["reader"] == model_fingerprint(model)
    assert {trace.model for trace in theirs.traces} == {run["model"]}
    assert run["model"] != run["reader"]
    write_record(out / "run.json", {**run, "reader": "another"})
    with pytest.raises(FileExistsError, match="its traces were read by model another, and the"):
        analyze(other)
    assert write_report([out], tmp_path / "page.html").exists()


def test_the_model_that_reads_is_loaded_once_the_engine_is_closed(config, tmp_path, monkeypatch):
    engines, loaded = [], load

    def loading(name, engine, **settings):
        engines.append(RenamedEngine(loaded(name, dtype="float64", device="cpu")))
        return engines[-1]

    def reading(name, **settings):
        assert engines[-1].closed
        return loaded(name, **settings)

    monkeypatch.setattr("mi_lens.generation.engines.lookup.load_engine", loading)
    monkeypatch.setattr("mi_lens.models.loading.load", reading)
    recycled = replace(config, intervene=(RECYCLED,))
    ours = analyze(replace(recycled, out=tmp_path / "ours", engine="vllm"))
    monkeypatch.undo()
    theirs = analyze(replace(recycled, out=tmp_path / "theirs"))
    assert len(engines) == 1
    for our, their in zip(ours.traces, theirs.traces, strict=True):
        assert our.token_ids == their.token_ids
        for name in HOOKS:
            np.testing.assert_allclose(ours.mi(our, name), theirs.mi(their, name), rtol=1e-9)


@pytest.mark.parametrize("site", ["solution_last", "answer_mean"])
def test_an_engine_measures_what_it_wrote(config, tmp_path, monkeypatch, site):
    """The same files as by the model, which is never loaded; killed half-way and continued."""
    config = replace(
        config, intervene=(RECYCLED,), limit=4, site=site, keep_states=False, engine="vllm"
    )
    engines, loaded = [], load

    def loading(name, engine, **settings):
        engines.append(PretendReader(loaded(name, dtype="float64", device="cpu")))
        return engines[-1]

    monkeypatch.setattr("mi_lens.generation.engines.lookup.load_engine", loading)
    analyze(replace(config, out=tmp_path / "model"))
    monkeypatch.setattr("mi_lens.models.loading.load", None)
    on_engine = replace(config, out=tmp_path / "engine", read_with="engine")
    analyze(on_engine)
    assert sum(engines[1].told) > 1000
    mine, theirs = contents(tmp_path / "engine"), contents(tmp_path / "model")
    assert mine.keys() == theirs.keys()
    for name in mine.keys() - {"run.json"}:
        assert mine[name] == theirs[name], name
    assert "reader" not in read_record(tmp_path / "engine")
    readings = tmp_path / "engine" / "readings.jsonl"
    lines = readings.read_bytes().splitlines(keepends=True)
    readings.write_bytes(b"".join(lines[:2]))
    (tmp_path / "engine" / "peaks.json").unlink()
    analyze(on_engine)
    assert contents(tmp_path / "engine") == mine


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "transformer_lens"}, "engine='transformer_lens': only engine 'vllm' measures"),
        ({"engine": "huggingface"}, "engine='huggingface': only engine 'vllm' measures"),
        ({"keep_states": True}, "keep_states=True: states never leave the engine's workers"),
        ({"readout": "logit_lens"}, "keep_states=False: readout='logit_lens' decodes the states"),
    ],
)
def test_only_an_engine_that_measures_is_asked_to(config, settings, message):
    reads = {"read_with": "engine", "engine": "vllm", "keep_states": False}
    assert replace(config, **reads).read_with == "engine"
    with pytest.raises(ValueError, match=message):
        replace(config, **(reads | settings))


def test_an_engine_that_does_not_measure_leaves_no_folder(config, tmp_path, monkeypatch):
    loaded = load

    def loading(kind):
        return lambda name, engine, **settings: kind(loaded(name, dtype="float64", device="cpu"))

    on_engine = replace(
        config, out=tmp_path / "run", engine="vllm", keep_states=False, read_with="engine"
    )
    monkeypatch.setattr("mi_lens.generation.engines.lookup.load_engine", loading(RenamedEngine))
    with pytest.raises(ValueError, match=r"the engine renamed 1.0 does not read traces; leave"):
        analyze(on_engine)
    monkeypatch.setattr("mi_lens.generation.engines.lookup.load_engine", loading(PretendReader))
    with pytest.raises(ValueError, match=r"'blocks.1.hook_mlp_out': on vLLM only the residual"):
        analyze(replace(on_engine, hook_names=("blocks.1.hook_mlp_out",)))
    monkeypatch.setattr(PretendReader, "_watched", {1})
    with pytest.raises(ValueError, match=r"wanted at blocks \[2\], and the model was compiled for"):
        analyze(replace(on_engine, hook_names=HOOKS[:1]))
    monkeypatch.setattr(PretendReader, "_staged", True)
    with pytest.raises(ValueError, match="pipeline_parallel_size above 1 the blocks lie in"):
        analyze(on_engine)
    assert not (tmp_path / "run").exists()


def test_a_torn_line_is_no_result(config, analysis, tmp_path):
    out = tmp_path / "run"
    analyze(replace(config, out=out))
    whole = contents(out)
    for name in ("traces.jsonl", "readings.jsonl"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[:-20])
    analyze(replace(config, out=out))
    assert contents(out) == whole


def test_an_existing_folder_is_never_overwritten(config, analysis, tmp_path):
    with pytest.raises(FileExistsError, match=r"config\.seed was 0, now 1"):
        analyze(replace(config, seed=1))
    with pytest.raises(FileExistsError, match=r"command was 'analyze', now 'generate'"):
        run_generate(
            GenerateConfig(**{k: getattr(config, k) for k in GenerateConfig.__dataclass_fields__})
        )
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty and holds no run"):
        analyze(replace(config, out=tmp_path))
    with pytest.raises(FileExistsError, match="a file; give a folder"):
        analyze(replace(config, out=tmp_path / "notes.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_refused_leaves_nothing_behind(config, tmp_path):
    out = tmp_path / "run"
    write_jsonl(tmp_path / "bare.jsonl", [{"question": "q", "answer": "1"}])
    for change, message in (
        ({"hook_names": ("blocks.7.hook_resid_post",)}, "the model has 3 layers"),
        ({"problems": str(tmp_path / "bare.jsonl")}, "1 of 1 problems have no worked solution"),
        ({"model": "pocket-reasonr"}, "pocket-reasoner"),
        ({"limit": 0}, "limit=0"),
    ):
        with pytest.raises(ValueError, match=message):
            analyze(replace(config, out=out, **change))
    assert not out.exists()


def test_traces_too_short_for_peaks(config, tmp_path):
    with pytest.raises(ValueError, match="none of 5 traces has 4 steps"):
        analyze(replace(config, out=tmp_path / "run", max_new_tokens=3))


def test_states_that_are_not_finite_are_named(config, analysis, tmp_path, monkeypatch):
    good = mi_lens.runs.measure.load_activations

    def poisoned(path, hook_names):
        states = good(path, hook_names)
        if path.stem == analysis.traces[3].id and HOOKS[0] in states:
            states[HOOKS[0]][5, 2] = float("nan")
        return states

    monkeypatch.setattr("mi_lens.runs.measure.load_activations", poisoned)
    config = replace(config, out=tmp_path / "run")
    with pytest.raises(ValueError, match=rf"trace {analysis.traces[3].id}: states\[5\] holds NaN"):
        analyze(config)
    # Nothing read before is lost, and what was wrong can be mended.
    assert len(read_jsonl(config.out / "readings.jsonl")) == 3
    monkeypatch.undo()
    assert len(analyze(config).analysed) == 5


def test_logit_lens_and_answer_sites(config, tmp_path):
    analysis = analyze(
        replace(
            config,
            out=tmp_path / "run",
            readout="logit_lens",
            site="answer_mean",
            template=True,
            limit=2,
        )
    )
    assert analysis.tokens[HOOKS[0]].readout == "logit_lens"


def test_a_run_is_read_back_without_its_model(config, analysis, monkeypatch):
    before = contents(config.out)
    monkeypatch.setattr("mi_lens.models.loading.load", None)
    monkeypatch.setattr("mi_lens.models.folder_checkpoint.FolderCheckpoint.read", None)
    loaded = Analysis.load(config.out)
    assert loaded.finished
    for field in ("traces", "token_strings", "hook_names", "tokens"):
        assert getattr(loaded, field) == getattr(analysis, field)
    assert replace(loaded.config, batch_size=config.batch_size) == config
    for name in HOOKS:
        assert loaded.summary(name) == analysis.summary(name)
        assert loaded.controls(name) == analysis.controls(name)
    for trace in analysis.analysed:
        assert loaded.peaks(trace, HOOKS[0]) == analysis.peaks(trace, HOOKS[0])
    assert contents(config.out) == before


def test_an_unfinished_run_is_read_as_far_as_it_is(config, analysis, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(config.out, out)
    (out / "thinking_tokens.json").unlink()
    rows = (out / "readings.jsonl").read_bytes().splitlines(keepends=True)
    (out / "readings.jsonl").write_bytes(b"".join(rows[:2]) + rows[2][:100])  # being written
    loaded = Analysis.load(out)
    assert not loaded.finished
    assert len(loaded.traces) == 5
    assert len(loaded.analysed) == 2
    assert loaded.hook_names == HOOKS
    assert (out / "readings.jsonl").read_bytes().endswith(rows[2][:100])  # nothing is changed
    for name in ("readings.jsonl", "traces.jsonl"):
        (out / name).unlink()
    assert Analysis.load(out).traces == ()


def test_what_cannot_be_read_back_says_why(config, analysis, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Analysis.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no run of mi-lens"):
        Analysis.load(tmp_path)
    record = json.loads((config.out / "run.json").read_text())
    for change, message in (
        ({"command": "generate"}, "a run of mi-lens generate; expected one of mi-lens analyze"),
        ({"config": {**record["config"], "kernel": 3}}, r"settings \['kernel'\], which this"),
    ):
        write_record(tmp_path / "run.json", {**record, **change})
        with pytest.raises(ValueError, match=message):
            Analysis.load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: no checksum; it was altered"):
        Analysis.load(tmp_path)


def test_the_tokenizer_alone(checkpoint, tokenizer, tmp_path):
    text = "So 12 * 7 = 84.\n\nWait"
    assert load_tokenizer(checkpoint("llama"))(text) == tokenizer(text)
    assert load_tokenizer("pocket-base").decode(load_tokenizer("pocket-base").encode(text)) == text
    with pytest.raises(FileNotFoundError, match="has no tokenizer: expected one of"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="near: pocket-reasoner"):
        load_tokenizer("pocket-reasonr")


def test_command_line(config, analysis, tmp_path, capsys):
    out = tmp_path / "run"
    main(
        [
            "generate",
            "--out",
            str(out),
            "--model",
            config.model,
            "--problems",
            config.problems,
            "--limit",
            "2",
            "--max-new-tokens",
            "5",
            "--temperature",
            "0.7",
            "--device",
            "cpu",
        ]
    )
    assert "2 traces in" in capsys.readouterr().out
    assert [len(t) for t in load_traces(out / "traces.jsonl")] == [5, 5]
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--out", str(out), "--problems", "no/such.jsonl"])
    assert stop.value.code == 2
    assert "no/such.jsonl: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["analyze"], ["generate"], ["demo"], ["report"]])
def test_help_and_import_are_light(command):
    program = (
        "import sys, mi_lens\n"
        "assert 'torch' not in sys.modules\n"
        "from mi_lens.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformer_lens' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "usage: mi-lens" in result.stdout


def test_gsm8k_on_a_random_llama(shared_data, checkpoint, tmp_path):
    analysis = analyze(
        AnalyzeConfig(
            model=str(checkpoint("llama")),
            problems=str(shared_data / "bench" / "gsm8k_test.jsonl"),
            limit=1,
            out=tmp_path / "run",
            max_new_tokens=8,
            style="raw",
            site="answer_last",
            device="cpu",
        )
    )
    assert len(analysis.analysed) == 1
    assert analysis.hook_names == ("blocks.2.hook_resid_post",)


def test_interventions_on_the_command_line(config, tmp_path, capsys):
    command = [
        "generate",
        "--model",
        config.model,
        "--problems",
        config.problems,
        "--limit",
        "2",
        "--max-new-tokens",
        "6",
        "--dtype",
        "float64",
        "--device",
        "cpu",
    ]
    out = tmp_path / "quiet"
    acts = ["--intervene", "Suppress(['so', 'the'])", "Recycle(1, ['is'], trigger='consumed')"]
    main([*command, "--out", str(out), *acts])
    for trace in load_traces(out / "traces.jsonl"):
        interventions = trace.condition.get("interventions", [])
        assert [settings["kind"] for settings in interventions] == ["Suppress", "Recycle"]
    capsys.readouterr()
    for wrong, message in (
        ("Supress(['so'])", "'Supress': expected one of"),
        ("Suppress(['Zebra'])", "no single token of this tokenizer writes 'Zebra'"),
        ("Recycle(7, ['so'])", "the model has 3 layers"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--out", str(tmp_path / "wrong"), "--intervene", wrong])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_rule_of_peaks_is_the_same_however_it_is_written(config):
    assert replace(config, peaks="IQR(1.5)") == replace(config, peaks="IQR(tau=1.5)") == config
    with pytest.raises(ValueError, match="peak rule 'Quartile'"):
        replace(config, peaks="Quartile(2)")


def test_another_rule_finds_other_peaks(config, tmp_path):
    highest = analyze(replace(config, peaks="TopK(3)", limit=2, out=tmp_path / "run"))
    for trace in highest.analysed:
        assert len(highest.peaks(trace, HOOKS[0])) == 3
    assert Analysis.load(tmp_path / "run").config.peaks == "TopK(k=3)"


def fingerprints_of_a_run(config):
    """How often a run reads its model for a fingerprint, where no type is checked."""
    calls = []

    def counted(model):
        calls.append(model)
        return model_fingerprint(model)

    modules = ("mi_lens.generation.engines.transformer_lens", "mi_lens.states.capture_to_disk")
    with ExitStack() as patches:
        for module in modules:
            patches.enter_context(mock.patch(f"{module}.model_fingerprint", counted))
        analyze(config, progress=False)
    return len(calls)


def test_a_run_reads_its_model_for_a_fingerprint_once(config, tmp_path):
    assert result_of(fingerprints_of_a_run, replace(config, limit=3, out=tmp_path / "run")) == 1
