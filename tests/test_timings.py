"""The study at a paper's size runs small; the arithmetic of sizes is that of models."""

import json
import sys
from pathlib import Path

import pytest
import torch

from experiments.timings import engines, paper_size
from experiments.timings.random_checkpoint import write_checkpoint
from experiments.timings.sizes import SIZES, STUDIES, hours_table, memory_table, mi_table

ROOT = Path(__file__).resolve().parents[1]
TINY = paper_size.CONFIG | {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 1200,
    "max_position_embeddings": 256,
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a peak")
def test_every_step_runs_on_a_tiny_checkpoint(monkeypatch, capsys, tmp_path):
    """In this process: the processes of its own are tested by one step below."""
    monkeypatch.setattr(paper_size, "in_a_fresh_process", paper_size.measured_here)
    monkeypatch.setattr(paper_size, "mi_costs", lambda: {"R1-Distill-Llama-8B": 100.0})
    monkeypatch.setattr(paper_size, "CONFIG", TINY)
    monkeypatch.setattr(paper_size, "TOKENS", 1000)
    monkeypatch.setattr(paper_size, "SHARD", 40e3)
    out = tmp_path / "out.json"
    arguments = ["--tokens", "8", "--threads", "1", "--backend", "bridge", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["paper_size", *arguments])
    paper_size.main()
    record = json.loads(out.read_text())
    assert [step["step"] for step in record["steps"]] == [*paper_size.STEPS]
    assert all(step["peak_gb"] > 0 and step["seconds"] > 0 for step in record["steps"])
    did = {step["step"]: step["what"] for step in record["steps"]}
    assert did["decode"] == "8 tokens"
    assert did["MI at every block"] == "24 states"
    assert did["steer"] == "8 tokens, block 2"
    assert int(did["recycle"].split()[-1]) > 0
    printed = capsys.readouterr().out
    assert paper_size.table(record) in printed
    assert "| R1-Distill-Llama-8B | 4096 | 100 | 1 | 0.53 |" in printed


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a peak")
def test_a_step_has_a_process_of_its_own(tmp_path):
    write_checkpoint(tmp_path, TINY, 1000, 40e3)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    step = paper_size.in_a_fresh_process(tmp_path, "load", 8, 1, "bridge")
    assert step["step"] == "load"
    assert 0.1 < step["peak_gb"] < 4


def test_the_checkpoint_is_r1_distills_and_pads_its_vocabulary(tmp_path):
    from transformers import AutoModelForCausalLM, Qwen2Config

    import mi_lens

    write_checkpoint(tmp_path, TINY, 1000, 40e3)
    model = mi_lens.load(tmp_path, dtype="bfloat16", device="cpu")
    assert model.cfg.d_vocab == 1200
    assert len(model.tokenizer) == 1000
    assert "<think>" in model.tokenizer.chat_template
    assert model.tokenizer.decode([999]) == "<unused 999>"
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(Qwen2Config(**paper_size.CONFIG))
    weights = sum(parameter.numel() for parameter in whole.parameters())
    assert abs(2 * weights / SIZES["R1-Distill-Qwen-1.5B"].weights - 1) < 1e-3
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_parameters"]["rope_theta"] == 10_000


def hf_config(size):
    """Hugging Face's config of a model of this size."""
    from transformers import GptOssConfig, LlamaConfig

    shape = {
        "num_hidden_layers": size.layers,
        "hidden_size": size.d,
        "intermediate_size": size.mlp,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head,
        "vocab_size": size.vocabulary,
        "tie_word_embeddings": size.tied,
    }
    if size.experts == 1:
        return LlamaConfig(**shape)
    return GptOssConfig(**shape, num_local_experts=size.experts)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_hugging_faces_models(name):
    from transformers import AutoModelForCausalLM

    size = SIZES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config(size))
    counts = {n: p.numel() for n, p in model.named_parameters()}
    experts = sum(count for n, count in counts.items() if "experts" in n)
    bytes_of_all = 2 * (sum(counts.values()) - experts) + experts * size.expert_bits / 8
    if size.experts == 1:
        bytes_of_all = 2 * sum(counts.values())
    assert abs(size.weights / bytes_of_all - 1) < 0.01


def test_a_cache_and_its_states_are_counted_as_they_are(checkpoint):
    from transformers import AutoModelForCausalLM

    from experiments.timings.sizes import Size

    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama3"), dtype=torch.bfloat16)
    size = Size(3, 32, 48, 4, 2, 8, 390)
    output = model(torch.arange(6, 16)[None], use_cache=True, output_hidden_states=True)
    layers = output.past_key_values.layers
    held = sum(t.numel() * t.itemsize for layer in layers for t in (layer.keys, layer.values))
    assert held == 10 * size.cache
    states = output.hidden_states[1:]
    assert sum(state.numel() * state.itemsize for state in states) == 10 * size.states


def test_hours_are_those_of_what_a_step_reads():
    """By hand: 100 traces of 512 tokens read the 8B weights 512 times, and half of the cache."""
    size = SIZES["R1-Distill-Llama-8B"]
    rows, hours = size.hours(100, 512)
    assert rows == 100
    step = (16.06e9 + 100 * 256 * 131_072) / 3.35e12
    assert abs(hours / (512 * step / 3600) - 1) < 1e-3
    assert SIZES["R1-Distill-Llama-70B"].rows(10_000) == 0
    assert {model for model, _, _ in STUDIES.values()} <= set(SIZES)


def test_the_pages_have_the_tables_as_they_are_computed():
    reproduce = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    for table in (memory_table(), hours_table()):
        assert "\n".join(table) in reproduce
    scaling = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "experiments" / "timings" / "paper_size.json").read_text())
    assert record["config"] == paper_size.CONFIG
    assert paper_size.table(record) in scaling
    assert "\n".join(mi_table(record["mi_microseconds"])) in scaling


def test_engines_are_compared_within_a_turn_and_by_tokens():
    """The machine is three times as slow in the second turn; the second engine writes more."""
    runs = [
        {"engine": engines.OURS, "what": "mixed", "batch": 8},
        {"engine": engines.LENS, "what": "no intervention", "batch": 8},
        {"engine": engines.LENS, "what": "mixed", "batch": 8},
        {"engine": engines.LENS, "what": "mixed", "batch": 1},
    ]
    seconds = [[1.0, 3.0, 1.0], [1.0, 3.0, 1.0], [2.0, 6.0, 2.0], [1.0, 1.0, 1.0]]
    for run, spent, tokens in zip(runs, seconds, (100, 200, 320, 10), strict=True):
        run |= {"cpu_seconds": spent, "tokens": [tokens] * 3}
    rows = [line.split(" | ") for line in engines.table({"runs": runs}).splitlines()[2:]]
    assert rows[2] == ["| mi_lens on vLLM", "mixed", "8", "320", "160", "1.60", "", "0.80 |"]
    assert rows[3][5:] == ["", "", " |"]


def test_every_engine_is_asked_at_every_batch_and_mixes_only_in_one():
    wanted = engines.runs([1, 64], list(engines.ENGINES), alone=True)
    assert len(wanted) == len(set(wanted)) == 2 * len(engines.ENGINES) + 3 + len(engines.ALONE)
    assert {run.batch for run in wanted if run.what != engines.PLAIN} == {64}
    assert {run.engine for run in wanted if run.what in engines.ALONE} == {engines.LENS}


@pytest.mark.slow
def test_engines_in_processes_of_their_own_write_the_same_number_of_tokens():
    """Without vLLM, which has an environment of its own."""
    ours = [name for name in engines.ENGINES if name.startswith("mi_lens, ")]
    shape = engines.SHAPES["pocket"]
    wanted = [engines.Run(name, what, 6) for name in ours for what in ("no intervention", "mixed")]
    with engines.checkpoint(shape) as folder:
        answers = engines.timed(folder, "pocket", shape, wanted, turns=2)
    assert answers[0]["tokens"] == answers[2]["tokens"]
    assert answers[1]["tokens"] == answers[3]["tokens"]
    assert answers[0]["tokens"] == [6 * shape.tokens] * 2
    assert all(seconds > 0 for answer in answers for seconds in answer["cpu_seconds"])
