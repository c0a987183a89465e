from dataclasses import replace

import pytest
import torch

from mi_lens.generation.generate import generate, stream
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import encode, encode_prompt

QUESTIONS = [
    "What is 12 * 7 - 5?",
    "Hi",
    "A farmer has 37 boxes with 48 apples each; how many apples are left in the boxes?",
    "So let me think. What is 3?",
    "2",
]


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def tokens_of(traces):
    return [trace.token_ids for trace in traces]


def test_greedy_equals_hugging_face(model, checkpoint, reference):
    hugging_face = reference(checkpoint("qwen2"))
    traces = generate(model, QUESTIONS, max_new_tokens=24, progress=False)
    for trace in traces:
        ids = torch.tensor([trace.prompt_ids])
        for token in trace.token_ids:
            with torch.no_grad():
                assert hugging_face(ids).logits[0, -1].argmax() == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_do_not_depend_on_their_batch(model, temperature):
    requests = [
        Request(
            question,
            Condition(sampling=Sampling(temperature=temperature, top_p=0.95)),
            seed=i % 2,
            max_new_tokens=5 + 6 * i,
        )
        for i, question in enumerate(QUESTIONS)
    ]
    alone = [generate(model, [request], progress=False)[0] for request in requests]
    together = generate(model, requests, batch_size=5, progress=False)
    pairs = generate(model, requests, batch_size=2, progress=False)
    order = [3, 0, 4, 2, 1]
    shuffled = generate(model, [requests[i] for i in order], batch_size=3, progress=False)
    assert together == alone
    assert pairs == alone
    assert shuffled == [alone[i] for i in order]
    assert [len(t) for t in alone] == [r.max_new_tokens for r in requests]


def test_seeds_decide_samples(tiny_model):
    sampled = [
        generate(
            tiny_model, QUESTIONS[:2], temperature=1.0, seed=s, max_new_tokens=12, progress=False
        )
        for s in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1]
    assert tokens_of(sampled[0]) != tokens_of(sampled[2])
    assert sampled[0][0].id != sampled[2][0].id


def test_the_global_generator_is_not_touched(tiny_model):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    generate(tiny_model, QUESTIONS[:1], temperature=1.0, max_new_tokens=3, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_stops(tiny_model, monkeypatch):
    (free,) = generate(tiny_model, QUESTIONS[:1], max_new_tokens=8, progress=False)
    assert (free.stop_reason, len(free)) == ("length", 8)
    monkeypatch.setattr(tiny_model.cfg, "n_ctx", len(free.prompt_ids) + 4)
    (full,) = generate(tiny_model, QUESTIONS[:1], max_new_tokens=8, progress=False)
    assert (full.stop_reason, full.token_ids) == ("context", free.token_ids[:4])
    monkeypatch.undo()
    monkeypatch.setattr(
        "mi_lens.generation.engines.transformer_lens.end_of_text_ids",
        lambda model: {free.token_ids[2]},
    )
    (ended,) = generate(tiny_model, QUESTIONS[:1], max_new_tokens=8, progress=False)
    first = free.token_ids.index(free.token_ids[2])
    assert (ended.stop_reason, ended.token_ids) == ("eos", free.token_ids[: first + 1])


def test_the_checkpoint_may_end_turns_with_more_tokens(new_checkpoint, model):
    import json

    folder = new_checkpoint("qwen2")
    config = folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [1, 7]}))
    backend = "bridge" if "Bridge" in type(model).__name__ else "hooked"
    loaded = load(str(folder), backend=backend, device="cpu")
    assert end_of_text_ids(loaded) == {1, 7}
    assert end_of_text_ids(model) == {1}


def test_hooks_fire_at_every_step(model):
    seen = []

    def record(activation, hook):
        seen.append(activation.shape[1])

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", record)]):
        (trace,) = generate(model, QUESTIONS[:1], max_new_tokens=6, progress=False)
    assert seen == [len(trace.prompt_ids), 1, 1, 1, 1, 1]


def test_a_hook_can_act(tiny_model):
    (free,) = generate(tiny_model, QUESTIONS[:1], max_new_tokens=6, progress=False)

    def erase(activation, hook):
        return torch.zeros_like(activation)

    with tiny_model.hooks(fwd_hooks=[("blocks.2.hook_resid_post", erase)]):
        (acted,) = generate(tiny_model, QUESTIONS[:1], max_new_tokens=6, progress=False)
    assert acted.token_ids != free.token_ids
    assert len(set(acted.token_ids)) == 1


def test_stream_yields_as_rows_finish(tiny_model):
    requests = [Request(q, max_new_tokens=n) for q, n in zip(QUESTIONS, [9, 3, 6], strict=False)]
    assert [done.index for done in stream(Plan(tiny_model), requests)] == [1, 2, 0]


def test_a_trace_carries_what_made_it(tiny_model):
    problem = Problem("p", "What is 2?", "2")
    condition = Condition((Suppress(["so"]),), Sampling(0.5, 0.9, 7), "quiet")
    request = Request(problem, condition, "raw", seed=3, max_new_tokens=2)
    (trace,) = generate(tiny_model, [request], progress=False)
    assert trace.problem == problem
    assert trace.prompt == "What is 2?"
    assert trace.seed == 3
    assert trace.condition == {
        "name": "quiet",
        "sampling": {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.0},
        "interventions": [{"kind": "Suppress", "words": ["so"]}],
        "max_new_tokens": 2,
        "style": "raw",
        "stop": [],
        "prefix": 0,
    }
    assert trace.model == model_fingerprint(tiny_model)
    plan = Plan(tiny_model)
    assert trace.id == plan.trace_id(request)
    named = replace(request, condition=replace(condition, name="other"))
    assert trace.id == plan.trace_id(named)
    changes = (
        {"seed": 4},
        {"style": "chat"},
        {"max_new_tokens": 3},
        {"stop": ("x",)},
        {"prefix": (7,)},
        {"condition": Condition((Suppress(["the"]),), Sampling(0.5, 0.9, 7))},
        {"condition": Condition((Suppress(["so"]),), Sampling(0.5, 0.9, 8))},
    )
    ids = {plan.trace_id(replace(request, **change)) for change in changes}
    assert len(ids | {trace.id}) == 8


def test_a_prompt_is_read_once(tiny_model, monkeypatch):
    read = []

    def spy(tokenizer, question, style):
        text, ids = encode_prompt(tokenizer, question, style)
        read.append(text)
        return text, ids

    monkeypatch.setattr("mi_lens.generation.plan.encode_prompt", spy)
    requests = [
        Request(question, seed=seed, style=style, max_new_tokens=2)
        for question in ("Hi", Problem("p", "Hi", "2"), "2")
        for style in ("raw", "chat")
        for seed in (0, 1)
    ]
    traces = generate(tiny_model, requests, progress=False)
    assert sorted(read) == sorted({trace.prompt for trace in traces})
    assert len(read) == 4
    for trace in traces:
        templated = trace.condition.get("style") == "chat"
        ids = encode(tiny_model.tokenizer, trace.prompt, templated=templated)
        assert list(trace.prompt_ids) == ids


def test_fingerprints_tell_models_apart(tiny_model, checkpoint):
    same = load(str(checkpoint("qwen2")), dtype="float64", device="cpu", backend="hooked")
    assert model_fingerprint(same) == model_fingerprint(tiny_model)
    with torch.no_grad():
        same.blocks[1].mlp.W_in.mul_(1.001)
    assert model_fingerprint(same) != model_fingerprint(tiny_model)
    other = load(str(checkpoint("llama")), dtype="float64", device="cpu", backend="hooked")
    assert model_fingerprint(other) != model_fingerprint(tiny_model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: generate(m, []), "no problems to generate for"),
        (lambda m: generate(m, ["q"], batch_size=0), "batch_size=0"),
        (lambda m: generate(m, ["q"], max_new_tokens=0), "max_new_tokens=0"),
        (lambda m: generate(m, ["q"], temperature=-1.0), "temperature=-1.0"),
        (lambda m: generate(m, [""]), "the question is empty"),
        (
            lambda m: generate(m, ["word " * 300]),
            r"request 0 .*tokens and the model's context 256; shorten the prompt",
        ),
    ],
)
def test_bad_input(tiny_model, make, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_model)


def test_nan_logits_are_named(tiny_model):
    def poison(activation, hook):
        return activation * float("nan")

    hooks = [("blocks.2.hook_resid_post", poison)]
    with (
        tiny_model.hooks(fwd_hooks=hooks),
        pytest.raises(ValueError, match="logits at step 0 hold nan"),
    ):
        generate(tiny_model, ["q"], progress=False)


def test_a_model_without_tokenizer(tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model, "tokenizer", None)
    with pytest.raises(ValueError, match="no tokenizer"):
        generate(tiny_model, ["q"])


def test_a_prefix_outside_the_vocabulary_is_refused(tiny_model):
    with pytest.raises(
        ValueError, match=r"request 1: its prefix holds token id 99999; .* 0 to 389"
    ):
        generate(tiny_model, [Request("1 + 1?"), Request("1 + 1?", prefix=(5, 99999))])
