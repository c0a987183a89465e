import json

import pytest

from mi_lens.cli import main
from mi_lens.common.records import read_record, write_record
from mi_lens.report.loading import read_runs
from mi_lens.runs.config import GenerateConfig
from mi_lens.runs.generate import run_generate
from mi_lens.runs.sweep_spec import Spec
from mi_lens.traces.trace_files import load_traces
from tests.conftest import save_checkpoint
from tests.think_blocks import FAMILIES, tokenizer_of


@pytest.fixture
def command(tmp_path):
    tokenizer = tokenizer_of(FAMILIES["qwen3"])
    end = tokenizer.eos_token_id
    folder = save_checkpoint(tmp_path / "qwen3", "qwen2", tokenizer, eos_token_id=end)
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    sizes = ["--max-new-tokens", "2", "--device", "cpu", "--backend", "bridge"]
    return ["generate", "--model", str(folder), "--problems", str(problems), *sizes]


def test_thinking_on_the_command_line(command, tmp_path):
    out = tmp_path / "run"
    command += ["--out", str(out), "--style", "chat-no-thinking"]
    main([*command, "--think", "none"])
    (trace,) = load_traces(out / "traces.jsonl")
    assert trace.prompt.endswith("<think>\n\n</think>\n\n")
    assert trace.condition.get("style") == "chat-no-thinking"
    (run,) = read_runs([out])
    assert run.tokenizer.think == run.settings["think"] == "none"
    config = GenerateConfig(
        out=out,
        model=run.model,
        problems=run.settings["problems"],
        max_new_tokens=2,
        device="cpu",
        backend="bridge",
        style="chat-no-thinking",
    )
    with pytest.raises(FileExistsError, match=r"config\.think was 'none', now 'auto'; model was"):
        run_generate(config)


def test_another_engine_on_the_command_line(command, tmp_path, capsys):
    out = tmp_path / "run"
    command = [*command[:-2], "--out", str(out)]  # a backend is of our own loop
    other = [*command, "--engine", "huggingface", "--engine-options", "attn_implementation='eager'"]
    main(other)
    (trace,) = load_traces(out / "traces.jsonl")
    assert trace.condition.get("engine", "").endswith("attn_implementation='eager'")
    run = read_record(out)
    assert run["engine"] == trace.condition.get("engine")
    assert run["config"]["engine_options"] == ["attn_implementation='eager'"]
    main(other)  # is continued, and there is nothing to do
    assert load_traces(out / "traces.jsonl") == [trace]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(command)
    assert "config.engine was 'huggingface', now 'transformer_lens'" in capsys.readouterr().err
    for refused, words in (
        (["--intervene", "Suppress(['so'])"], "request 0 asks for interventions, which need hooks"),
        (["--temperature", "0.5"], "request 0 asks for sampling"),
    ):
        with pytest.raises(SystemExit):
            main([*other, *refused, "--out", str(tmp_path / "refused")])
        assert words in capsys.readouterr().err
        assert not (tmp_path / "refused").exists()


def test_a_folder_from_before_engines_is_read_and_not_continued(command, tmp_path, capsys):
    out = tmp_path / "run"
    main([*command, "--out", str(out)])
    run = read_record(out)
    assert run.pop("engine") == "mi_lens, TransformerBridge"
    assert run["config"].pop("engine") == "transformer_lens"
    assert run["config"].pop("engine_options") == []
    write_record(out / "run.json", run)
    assert len(read_runs([out])[0].traces) == 1
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*command, "--out", str(out)])
    assert "config.engine was None, now 'transformer_lens'" in capsys.readouterr().err


def test_an_unknown_kind_of_think_block_is_refused(tmp_path):
    with pytest.raises(ValueError, match="think='thinks': expected 'auto' or one of"):
        GenerateConfig(out=tmp_path, think="thinks")
    with pytest.raises(ValueError, match="think='thinks': expected 'auto' or one of"):
        Spec.of({"conditions": ["baseline"], "think": "thinks"})
    assert Spec.of({"conditions": ["baseline"], "think": "gpt-oss"}).think == "gpt-oss"
