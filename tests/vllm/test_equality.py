"""Token for token and event for event what our own loop writes, in float32."""

from collections import Counter

import pytest

from mi_lens.generation.generate import generate
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
    assert {trace.stop_reason for trace in theirs} == {"eos", "stop", "length"}
    assert {trace.condition.get("engine") for trace in theirs} == {engine.name}


def test_the_pocket_reasoner(engine):
    name, words = "pocket-reasoner", ["Wait", "Hmm", "So", "Let"]
    compare(engine(name), name, words, load_problems("pocket", limit=100))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_random_model(engine, tiny, architecture):
    folder = str(tiny(architecture))
    compare(engine(folder), folder, None, QUESTIONS)
