"""Tiny random models of several architectures: vLLM's layers differ in what they take and give."""

import pytest
import torch

from mi_lens.generation.engines.lookup import load_engine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.steer import Steer
from mi_lens.models.loading import load
from tests.vllm.ties import require_ties

pytestmark = pytest.mark.vllm

QUESTIONS = ["Hello there", "12 + 7", "What is it?"]


@pytest.mark.parametrize(
    "architecture", ["mistral", "gemma2", "gemma3", "granite", "phi3", "qwen3-moe"]
)
def test_an_architecture_writes_the_same(engine, tiny, architecture):
    folder = str(tiny(architecture))
    model, exact = (load(folder, dtype=dtype) for dtype in ("float32", "float64"))
    written = generate(model, QUESTIONS, max_new_tokens=24, progress=False)
    words = sorted({token for trace in written for token in trace.token_ids})[::2]
    vector = torch.linspace(-1, 1, model.cfg.d_model)
    parts = [
        (),
        (Recycle(0, words),),
        (Recycle(1, words, trigger="consumed", kv="keep"),),
        (Steer(vector, "blocks.0.hook_resid_post", 0.5, at="all", prompt=True),),
    ]
    requests = [
        Request(question, Condition(interventions), max_new_tokens=24)
        for question in QUESTIONS
        for interventions in parts
    ]
    ours, theirs = (generate(each, requests, progress=False) for each in (model, engine(folder)))
    assert {event["what"] for trace in theirs for event in trace.events} == {"recycle", "steer"}
    assert require_ties(exact, requests, ours, theirs) <= 1


@pytest.mark.parametrize("architecture", ["olmo3", "smollm3"])
def test_models_that_vllm_runs_by_hugging_faces_code_are_refused(tiny, architecture):
    with pytest.raises(ValueError, match=r"layers of vLLM's \w+ ask for .*use mi_lens.load"):
        load_engine(tiny(architecture))
