"""What vLLM does with its cache changes no token: chunks, shared prefixes, dropped requests."""

import contextlib
import random
from collections import Counter

import pytest
import torch

from mi_lens.generation.generate import generate, stream
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.models.loading import load
from tests.vllm.cases import combinations, recyclings, steerings, words_of
from tests.vllm.ties import require_ties

pytestmark = pytest.mark.vllm

LONG = [f"Of {n} boxes, " + "one is empty and " * n + "how many are left?" for n in (3, 9, 14)]


@pytest.fixture(scope="module")
def folder(tiny):
    return str(tiny("llama", max_position_embeddings=256))


@pytest.fixture(scope="module")
def models(folder):
    """Our model in float32, and in float64."""
    return load(folder, dtype="float32"), load(folder, dtype="float64")


@pytest.fixture(scope="module")
def words(models):
    traces = generate(models[0], LONG, max_new_tokens=50, progress=False)
    return words_of(models[0], traces)


def mixed(model, words, new_tokens):
    """All kinds of steering and recycling over prompts of one chunk and of several."""
    parts = [
        (),
        *((each,) for each in [*steerings(model, words), *recyclings(model, words)]),
        *combinations(model, words),
    ]
    requests = [
        Request(
            question,
            Condition(interventions, Sampling(0.9) if (i + j) % 2 else Sampling()),
            seed=j,
            max_new_tokens=new_tokens,
        )
        for i, interventions in enumerate(parts)
        for j, question in enumerate(LONG)
    ]
    random.Random(1).shuffle(requests)
    return requests


def require_equal(models, engine, requests):
    ours = generate(models[0], requests, batch_size=64, progress=False)
    theirs = generate(engine, requests, progress=False)
    assert require_ties(models[1], requests, ours, theirs) < len(requests) / 50
    what = Counter((event["what"], "wanted" in event) for trace in theirs for event in trace.events)
    assert all(what[kind] > 8 for kind in [("steer", False), ("recycle", True)])
    return theirs


def metric(engine, name):
    """A counter of vLLM's own."""
    (found,) = (m for m in engine._llm.get_metrics() if m.name == f"vllm:{name}")
    return found.value


def test_prompts_read_in_chunks(engine, folder, models, words):
    chunk = 32
    chunked = engine(
        folder, max_num_batched_tokens=chunk, max_num_seqs=16, enable_prefix_caching=False
    )
    requests = mixed(models[0], words, 24)
    longest = max(len(Plan(models[0]).prompt(request)[1]) for request in requests)
    assert longest > 4 * chunk
    traces = require_equal(models, chunked, requests)
    steered = [e for t in traces for e in t.events if e["what"] == "steer" and e["step"] < -chunk]
    assert len(steered) > 3


def test_the_same_request_in_another_batch(engine, folder, models, words):
    chunked = engine(
        folder, max_num_batched_tokens=32, max_num_seqs=16, enable_prefix_caching=False
    )
    requests = mixed(models[0], words, 24)
    together = generate(chunked, requests, progress=False)
    some = range(0, len(requests), 6)
    few = [requests[i] for i in some]
    alone = [generate(chunked, [request], progress=False)[0] for request in few]
    assert require_ties(models[1], few, [together[i] for i in some], alone) <= 1
    assert [trace.id for trace in alone] == [together[i].id for i in some]


def test_dropped_requests_are_read_again_as_they_were(engine, folder, models, words):
    # 12 blocks of 32 positions: three texts at most, of sixteen that vLLM may begin.
    small = engine(
        folder,
        block_size=32,
        num_gpu_blocks_override=12,
        max_num_seqs=16,
        enable_prefix_caching=False,
        disable_log_stats=False,
    )
    before = metric(small, "num_preemptions")
    requests = mixed(models[0], words, 60)
    require_equal(models, small, requests)
    assert metric(small, "num_preemptions") - before > 20


def test_steered_prompts_are_not_shared_and_others_are(engine, folder, models, words):
    caching = engine(folder, block_size=32, enable_prefix_caching=True, disable_log_stats=False)
    vector = torch.linspace(-1, 1, models[0].cfg.d_model)
    prompt = Steer(vector, "blocks.0.hook_resid_post", 0.5, at="all", prompt=True)
    other = Steer(vector, "blocks.0.hook_resid_post", -0.5, at="all", prompt=True)
    later = Recycle(1, words, trigger="consumed")

    def hits_of(*parts, question=LONG[1], seed=0):
        request = Request(question, Condition(parts), max_new_tokens=20, seed=seed)
        before = metric(caching, "prefix_cache_hits")
        (ours,) = generate(models[0], [request], progress=False)
        (theirs,) = generate(caching, [request], progress=False)
        require_ties(models[1], [request], [ours], [theirs])
        return metric(caching, "prefix_cache_hits") - before, theirs

    length = len(Plan(models[0]).prompt(Request(LONG[1]))[1])
    whole = (length - 1) // 32 * 32
    assert whole >= 64
    first, plain = hits_of()
    assert first == 0
    assert hits_of() == (whole, plain)
    assert hits_of(Suppress(words[:1]))[0] == whole
    assert hits_of(LogitPenalty(words, -1.0), seed=3)[0] == whole
    none, steered = hits_of(prompt)
    assert none == 0
    assert steered.token_ids != plain.token_ids
    none, opposite = hits_of(other)
    assert none == 0
    assert opposite.token_ids != steered.token_ids
    assert hits_of(later)[0] == 0
    assert hits_of(prompt, Suppress(words[:1]))[0] == 0
    assert hits_of(prompt, seed=1)[0] == 0
    assert hits_of() == (whole, plain)
    again = hits_of(prompt)[1]
    assert (again.token_ids, again.events) == (steered.token_ids, steered.events)


def test_the_seed_decides_what_is_sampled(engine, folder, models):
    caching = engine(folder, block_size=32, enable_prefix_caching=True, disable_log_stats=False)
    sampled = Condition(sampling=Sampling(1.5))
    requests = [Request(LONG[0], sampled, seed=i % 5, max_new_tokens=20) for i in range(15)]
    traces = generate(caching, requests, progress=False)
    assert len({trace.token_ids for trace in traces}) == 5
    assert [t.token_ids for t in traces[:5]] == [t.token_ids for t in traces[10:]]


def test_a_consumer_that_stops_leaves_nothing_behind(engine, folder, models, words):
    caching = engine(folder, block_size=32, enable_prefix_caching=True, disable_log_stats=False)
    requests = mixed(models[0], words, 30)
    with contextlib.closing(iter(stream(Plan(caching), requests))) as half:  # type: ignore[arg-type]
        for _ in range(3):
            next(half)
    assert not caching._llm.llm_engine.has_unfinished_requests()
    require_equal(models, caching, requests)
