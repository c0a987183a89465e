import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from mi_lens.generation.engines.vllm_offline import generate_with_vllm

from mi_lens.evaluation.comparison import compare
from mi_lens.evaluation.evaluate import evaluate
from mi_lens.evaluation.graded_traces import arm_of_traces
from mi_lens.generation.engines.hugging_face import generate_with_transformers
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.backends.lookup import available
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem

PROBLEMS = [Problem(f"p{i}", q, "7") for i, q in enumerate(["What is 12 * 7?", "Hi", "So, 3?"])]


def test_hugging_faces_generate_gives_the_same_greedy_tokens(checkpoint, architecture):
    folder = checkpoint(architecture)
    requests = [Request(p, max_new_tokens=9 + i) for i, p in enumerate(PROBLEMS)]
    theirs = generate_with_transformers(  # eager: some versions' sdpa has no softcap
        folder, requests, batch_size=1, dtype=torch.float64, attn_implementation="eager"
    )
    for backend in available():
        model = load(str(folder), backend=backend, dtype="float64", device="cpu")
        for batch_size in (1, 3):
            ours = generate(model, requests, batch_size=batch_size, progress=False)
            assert [t.token_ids for t in theirs] == [t.token_ids for t in ours]
            assert [t.stop_reason for t in theirs] == [t.stop_reason for t in ours]
            assert not {t.id for t in theirs} & {t.id for t in ours}
    assert all(t.condition.get("engine", "").startswith("transformers ") for t in theirs)


def test_padding_is_as_nothing_to_it(checkpoint):
    requests = [Request(p, max_new_tokens=9 + i) for i, p in enumerate(PROBLEMS)]
    single, padded = (
        generate_with_transformers(checkpoint("qwen3"), requests, batch_size=n, dtype=torch.float32)
        for n in (1, 3)
    )
    assert single == padded
    with pytest.raises(ValueError, match="use batch_size=1"):
        generate_with_transformers(checkpoint("qwen3"), requests, dtype=torch.float64)


def test_another_engine_is_named_when_compared(checkpoint):
    folder = checkpoint("llama")
    model = load(str(folder), dtype="float64", device="cpu")
    ours = evaluate(model, PROBLEMS, [Condition()], max_new_tokens=5, progress=False)
    requests = [Request(p, max_new_tokens=5) for p in PROBLEMS]
    theirs = generate_with_transformers(folder, requests, batch_size=1, dtype=torch.float64)
    setting = {k: v for k, v in ours.setting.items() if k not in ("engine", "model")}
    arm = arm_of_traces(theirs, model.tokenizer, setting)
    comparison = compare(arm, ours.arm("baseline"))
    assert [text.split(":")[0] for text in comparison.settings_differ] == ["engine", "model"]
    assert comparison.tokens.mean == 0
    with pytest.raises(ValueError, match="one condition of one engine"):
        arm_of_traces(
            [*theirs, *generate(model, requests[:1], progress=False)], model.tokenizer, {}
        )


def test_vllm_by_its_offline_api(tokenizer, monkeypatch):
    asked = {}

    @dataclass
    class SamplingParams:
        temperature: float
        top_p: float
        top_k: int
        min_p: float
        seed: int
        max_tokens: int
        stop: list | None
        stop_token_ids: list | None
        include_stop_str_in_output: bool

    class LLM:
        def __init__(self, model, **load):
            asked["load"] = (model, load)

        def get_tokenizer(self):
            return tokenizer

        def generate(self, prompts, settings):
            asked["prompts"], asked["settings"] = prompts, settings
            ends = [("stop", None), ("stop", "So"), ("length", None)]
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(
                            token_ids=(40, 41, 42 + i), finish_reason=why, stop_reason=what
                        )
                    ]
                )
                for i, (why, what) in enumerate(ends)
            ]

    fake: Any = ModuleType("vllm")
    fake.LLM, fake.SamplingParams, fake.__version__ = LLM, SamplingParams, "0.0"
    fake.__spec__ = SimpleNamespace(name="vllm")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    condition = Condition(sampling=Sampling(0.6, 0.9, 20))
    requests = [Request(p, condition, seed=4, max_new_tokens=9, stop=("So", 5)) for p in PROBLEMS]
    traces = generate_with_vllm("folder/m", requests, dtype="bfloat16")
    assert asked["load"] == ("folder/m", {"dtype": "bfloat16"})
    assert asked["settings"][0] == SamplingParams(0.6, 0.9, 20, 0.0, 4, 9, ["So"], [5], True)
    assert [t.stop_reason for t in traces] == ["eos", "stop", "length"]
    assert [tuple(p["prompt_token_ids"]) for p in asked["prompts"]] == [
        t.prompt_ids for t in traces
    ]
    assert {t.condition.get("engine") for t in traces} == {"vllm 0.0"}
    assert {t.model for t in traces} == {"m"}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("q", Condition((Suppress(["so"]),))), "request 0 asks for interventions"),
        (Request("q", prefix=(3,)), "request 0 asks for a prefix"),
        (Request("q", Condition(sampling=Sampling(1.0))), "request 0 asks for sampling"),
        (Request("q", stop=("x",)), "request 0 asks for stop texts"),
    ],
)
def test_what_an_engine_does_not_do_is_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        generate_with_transformers("nowhere", [request_])
    with pytest.raises(ImportError, match="vLLM is not installed"):
        generate_with_vllm("nowhere", [request_])
