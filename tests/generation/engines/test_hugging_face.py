import gc
import json
import shutil
import weakref

import pytest
import torch
from transformers import AutoModelForCausalLM

from mi_lens.evaluation.comparison import compare
from mi_lens.evaluation.evaluate import evaluate
from mi_lens.evaluation.graded_traces import arm_of_traces
from mi_lens.generation.engines.hugging_face import HuggingFaceEngine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.backends.lookup import available
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from tests.gguf_files import write_gguf

PROBLEMS = [Problem(f"p{i}", q, "7") for i, q in enumerate(["What is 12 * 7?", "Hi", "So, 3?"])]
REQUESTS = [Request(p, max_new_tokens=9 + i) for i, p in enumerate(PROBLEMS)]


def test_hugging_faces_generate_gives_the_same_greedy_tokens(checkpoint, architecture):
    folder = checkpoint(architecture)
    engine = HuggingFaceEngine(  # eager: some versions' sdpa has no softcap
        folder, dtype=torch.float64, device="cpu", attn_implementation="eager"
    )
    theirs = generate(engine, REQUESTS, progress=False)
    for backend in available():
        model = load(str(folder), backend=backend, dtype="float64", device="cpu")
        for batch_size in (1, 3):
            ours = generate(model, REQUESTS, batch_size=batch_size, progress=False)
            assert [t.token_ids for t in theirs] == [t.token_ids for t in ours]
            assert [t.stop_reason for t in theirs] == [t.stop_reason for t in ours]
            assert [t.prompt_ids for t in theirs] == [t.prompt_ids for t in ours]
            assert not {t.id for t in theirs} & {t.id for t in ours}
    assert engine.name.startswith("transformers ")
    assert engine.name.endswith(" generate, torch.float64, attn_implementation='eager'")
    assert {t.condition.get("engine") for t in theirs} == {engine.name}
    assert {t.model for t in theirs} == {engine.fingerprint}


def test_padding_is_as_nothing_to_it(checkpoint):
    engine = HuggingFaceEngine(checkpoint("qwen3"), dtype="float32", device="cpu")
    single, padded = (
        generate(engine, REQUESTS, batch_size=n, progress=False) for n in (1, len(REQUESTS))
    )
    assert single == padded
    assert len({len(trace.prompt_ids) for trace in single}) > 1


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_row_ends_with_its_context_while_others_go_on(checkpoint, architecture):
    folder = checkpoint(architecture)  # a context of 256
    engine = HuggingFaceEngine(folder, dtype="float32", device="cpu")
    requests = [Request(q, style="raw", max_new_tokens=250) for q in ("1 + " * 60 + "1", "Hi")]
    ours = generate(load(folder, device="cpu"), requests, progress=False)
    theirs = generate(engine, requests, progress=False)
    assert theirs[0].stop_reason == "context"
    assert [t.token_ids for t in theirs] == [t.token_ids for t in ours]


def test_another_engine_is_named_when_compared(checkpoint):
    folder = checkpoint("llama")
    model = load(str(folder), dtype="float64", device="cpu")
    engine = HuggingFaceEngine(folder, dtype="float64", device="cpu")
    ours, theirs = (
        evaluate(each, PROBLEMS, [Condition()], max_new_tokens=5, progress=False)
        for each in (model, engine)
    )
    comparison = compare(theirs.arm("baseline"), ours.arm("baseline"))
    assert [text.split(":")[0] for text in comparison.settings_differ] == ["engine", "model"]
    assert comparison.tokens.mean == 0
    traces = generate(engine, PROBLEMS, max_new_tokens=5, progress=False)
    setting = {k: v for k, v in ours.setting.items() if k not in ("engine", "model")}
    arm = arm_of_traces(traces, model.tokenizer, setting)
    assert arm.setting == theirs.setting
    mixed = [*traces, *generate(model, PROBLEMS[:1], max_new_tokens=5, progress=False)]
    with pytest.raises(ValueError, match="one condition of one engine"):
        arm_of_traces(mixed, model.tokenizer, {})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("q", Condition((Suppress(["so"]),))), "request 0 asks for interventions"),
        (Request("q", prefix=(3,)), "request 0 asks for a prefix"),
        (Request("q", Condition(sampling=Sampling(1.0))), "request 0 asks for sampling"),
        (Request("q", stop=("x",)), "request 0 asks for stop texts"),
    ],
)
def test_what_it_does_not_do_is_refused(checkpoint, request_, message):
    engine = HuggingFaceEngine(checkpoint("llama"), device="cpu")
    with pytest.raises(ValueError, match=message):
        generate(engine, [request_])


def test_a_gguf_file_is_dequantised(checkpoint, tokenizer, tmp_path):
    path = tmp_path / "m.gguf"
    model = AutoModelForCausalLM.from_pretrained(checkpoint("qwen2"), dtype=torch.float32)
    write_gguf(path, model, tokenizer)
    engine = HuggingFaceEngine(path, dtype="float64", device="cpu")
    ours = generate(load(path, dtype="float64", device="cpu"), REQUESTS, progress=False)
    theirs = generate(engine, REQUESTS, progress=False)
    assert [t.token_ids for t in theirs] == [t.token_ids for t in ours]


def test_its_fingerprint_is_the_checkpoints(checkpoint, new_checkpoint, tmp_path):
    def fingerprint(folder, **settings):
        return HuggingFaceEngine(folder, device="cpu", **settings).fingerprint

    folder = checkpoint("llama")
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    first = fingerprint(folder)
    assert len(first) == 16
    assert fingerprint(elsewhere) == first
    others = {
        fingerprint(folder, dtype="bfloat16"),
        fingerprint(folder, think="none"),
        fingerprint(new_checkpoint("llama", rms_norm_eps=0.1)),
    }
    assert len(others | {first}) == 4


def test_weights_that_are_missing_are_refused(new_checkpoint):
    folder = new_checkpoint("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ValueError, match=r"weights are missing or misshapen: model\.layers\.3"):
        HuggingFaceEngine(folder, device="cpu")


def test_a_penalty_of_the_checkpoints_own_does_not_act(new_checkpoint):
    folder = new_checkpoint("llama")
    path = folder / "generation_config.json"
    settings = {"repetition_penalty": 5.0, "max_new_tokens": 2, "eos_token_id": [1, 7]}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    ours = generate(load(folder, device="cpu"), REQUESTS, progress=False)
    theirs = generate(HuggingFaceEngine(folder, device="cpu"), REQUESTS, progress=False)
    assert [t.token_ids for t in theirs] == [t.token_ids for t in ours]


def test_a_closed_engine_holds_no_weights(checkpoint):
    engine = HuggingFaceEngine(checkpoint("llama"), device="cpu")
    weights = weakref.ref(engine._hf_model)
    engine.close()
    engine.close()
    gc.collect()
    assert weights() is None
    with pytest.raises(RuntimeError, match="was closed; load it again"):
        generate(engine, ["Hi"], progress=False)
