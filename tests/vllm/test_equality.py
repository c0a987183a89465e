"""Token for token and event for event what our own loop writes, in float32."""

from collections import Counter

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from tests.vllm.cases import requests_of, words_of
from tests.vllm.ties import require_ties

pytestmark = pytest.mark.vllm

QUESTIONS = [f"What is {12 + i} * {7 + i % 5}?" for i in range(30)]


def compare(engine, name, words, problems):
    """Holds all kinds of interventions, in one mixed batch, to our own loop."""
    model = load(name, dtype="float32")
    words = words or words_of(model, generate(model, problems, max_new_tokens=30, progress=False))
    requests = requests_of(model, problems, words)
    ours = generate(model, requests, batch_size=64, progress=False)
    theirs = generate(engine, requests, progress=False)
    tied = require_ties(load(name, dtype="float64"), requests, ours, theirs)
    assert tied < len(requests) / 200
    what = Counter((event["what"], "wanted" in event) for trace in theirs for event in trace.events)
    expected = {("steer", False), ("recycle", True), ("recycle", False), ("logits", True)}
    assert {kind for kind, count in what.items() if count >= 20} >= expected
    assert what["continue", True]
    assert what["gate", False] > 8
    assert {trace.stop_reason for trace in theirs} == {"eos", "stop", "length"}
    assert {trace.condition.get("engine") for trace in theirs} == {engine.name}


def test_the_pocket_reasoner(engine):
    name, words = "pocket-reasoner", ["Wait", "Hmm", "So", "Let"]
    compare(engine(name), name, words, load_problems("pocket", limit=100))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_random_model(engine, tiny, architecture):
    folder = str(tiny(architecture))
    compare(engine(folder), folder, None, QUESTIONS)


def test_a_compiled_model_acts_where_it_is_watched(engine, tiny, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_CI_ENV", "1")  # No C++ is compiled.
    folder, place = str(tiny("llama")), "blocks.1.hook_resid_post"
    model, exact = (load(folder, dtype=dtype) for dtype in ("float32", "float64"))
    words = words_of(model, generate(model, QUESTIONS, max_new_tokens=30, progress=False))
    steer = Steer(torch.linspace(-1, 1, 64), place, 0.2, at="all", prompt=True)
    parts = [(), (Suppress(words[:2]),), (steer,), (Recycle(1, words),), (steer, Recycle(1, words))]
    requests = [
        Request(question, Condition(interventions), max_new_tokens=24)
        for question in QUESTIONS[:8]
        for interventions in parts
    ]
    compiled = engine(folder, compiled=[place])
    ours, theirs = (generate(each, requests, progress=False) for each in (model, compiled))
    assert require_ties(exact, requests, ours, theirs) <= 1
    assert {e["what"] for t in theirs for e in t.events} == {"steer", "logits", "recycle"}
    with pytest.raises(ValueError, match=r"request 0 asks for something at blocks \[2\], and"):
        generate(compiled, [Request("q", Condition((Recycle(2, words),)))], progress=False)
