"""Interventions as plain hooks, under TransformerLens's own functions."""

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.replay import replay_of
from mi_lens.interventions.row import Row
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.models.backends.lookup import backend_of
from mi_lens.states.capture import capture
from tests.interventions.test_replay import PROMPT, THIRD, VECTOR, ZeroHead

EVERYWHERE = Steer(VECTOR, "blocks.1.hook_resid_post", at="all", inside_think=False)
INTERVENTIONS = {
    "steer at words": Steer(VECTOR, "blocks.0.hook_resid_post", 2.0, at=THIRD),
    "steer everywhere": EVERYWHERE,
    "project": Steer(VECTOR, "blocks.1.hook_resid_post", at=THIRD, variant="project"),
    "suppress": Suppress(THIRD),
    "penalty": LogitPenalty(THIRD, -2.5),
    "of one's own": ZeroHead(THIRD),
    "consumed": Recycle(1, THIRD, trigger="consumed"),
    "consumed, keep": Recycle(1, THIRD, passes=2, trigger="consumed", kv="keep"),
    "candidate": Recycle(1, THIRD),
    "range, candidate, damped": Recycle((0, 1), THIRD, passes=2, damping=0.5),
    "range, consumed, keep": Recycle((1, 2), THIRD, trigger="consumed", kv="keep"),
    "gate of a steering": Gate(EVERYWHERE, entropy=6.4),
    "gate of suppression": Gate(Suppress(THIRD), entropy=6.4),
    "gate, consumed": Gate(Recycle((1, 2), THIRD, trigger="consumed"), times=2),
    "candidate by a coin, keep": Recycle(0, THIRD, kv="keep", probability=0.5),
}
LAST = "blocks.2.hook_resid_post"


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def tokens_of(trace):
    return torch.tensor([[*trace.prompt_ids, *trace.token_ids]])


@torch.no_grad()
def run(model, trace, hooks):
    """Logits and last states of a trace's steps, by TransformerLens's own run_with_hooks."""
    kept = []
    watch = ("blocks.2.hook_resid_post", lambda states, hook: kept.append(states))
    logits = model.run_with_hooks(tokens_of(trace), fwd_hooks=[*hooks, watch])
    first = len(trace.prompt_ids) - 1
    return logits[0, first:-1], kept[-1][0, first:-1]


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_a_forced_pass_equals_the_generation(model, kind):
    """test_replay.py shows that what capture reads are the states of the generation."""
    intervention = INTERVENTIONS[kind]
    (trace,) = generate(
        model, [PROMPT], intervention, max_new_tokens=24, temperature=0.5, progress=False
    )
    logits, states = run(model, trace, intervention.fwd_hooks(model, trace))
    (captured,) = capture(model, [trace], [LAST])
    # In its own pass, TransformerBridge takes the softmax in float32.
    exact = 1e-9 if backend_of(model).name == "hooked" else 1e-4
    torch.testing.assert_close(states, captured[LAST], rtol=exact, atol=exact)
    wanted = replay_of(model, trace).logits(backend_of(model).unembed(model, captured[LAST]), 0)
    torch.testing.assert_close(logits, wanted, rtol=max(exact, 1e-6), atol=max(exact, 1e-6))
    plain, _ = run(model, trace, [])
    assert not torch.allclose(logits, plain, atol=1e-3)


@pytest.mark.parametrize("kind", ["steer everywhere", "suppress", "penalty", "consumed, keep"])
def test_the_models_own_generate(model, kind):
    intervention = INTERVENTIONS[kind]
    (trace,) = generate(model, [PROMPT], intervention, max_new_tokens=16, progress=False)
    prompt = torch.tensor([trace.prompt_ids])
    hooks = intervention.fwd_hooks(model, prompt)
    settings = {"max_new_tokens": len(trace), "do_sample": False, "verbose": False}
    with model.hooks(fwd_hooks=hooks):
        if kind.startswith("consumed") and model.__class__.__name__ == "HookedTransformer":
            with pytest.raises(ValueError, match="must know which token is read"):
                model.generate(prompt, **settings)
            return
        written = model.generate(prompt, stop_at_eos=trace.stop_reason == "eos", **settings)
    assert written[0, len(trace.prompt_ids) :].tolist() == list(trace.token_ids)
    with model.hooks(fwd_hooks=hooks):  # the same hooks, for a pass that begins anew
        again = model.generate(prompt, stop_at_eos=trace.stop_reason == "eos", **settings)
    assert torch.equal(again, written)


def test_several_traces_padded_on_the_left(tiny_model):
    steer = INTERVENTIONS["steer at words"]
    requests = [Request(PROMPT[i:], Condition((steer,)), max_new_tokens=12) for i in (0, 7)]
    traces = generate(tiny_model, requests, progress=False)
    ids = [tokens_of(trace)[0] for trace in traces]
    width = max(map(len, ids))
    tokens = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in ids])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in ids]).long()
    hooks = steer.fwd_hooks(tiny_model, traces)
    with torch.no_grad(), tiny_model.hooks(fwd_hooks=hooks):
        together = tiny_model(tokens, attention_mask=mask, padding_side="left")
    for trace, logits in zip(traces, together, strict=True):
        alone, _ = run(tiny_model, trace, steer.fwd_hooks(tiny_model, trace))
        torch.testing.assert_close(logits[-len(trace) - 1 : -1], alone, rtol=1e-6, atol=1e-6)


def test_one_step_of_a_row_with_its_candidate(model):
    recycle = Recycle(1, THIRD)
    (trace,) = generate(model, [PROMPT], recycle, max_new_tokens=24, progress=False)
    event = next(event for event in trace.events if event["step"] == trace.events[0]["step"])
    before = trace.token_ids[: event["step"]]
    row = Row(model.tokenizer, trace.prompt_ids, 0, 24, list(before), candidate=event["wanted"])
    tokens = torch.tensor([[*trace.prompt_ids, *before]])
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=recycle.fwd_hooks(model, row))[0, -1]
    assert logits.argmax() == event["emitted"]


def test_what_no_hook_can_do_is_refused(tiny_model, tiny_bridge):
    with pytest.raises(ValueError, match=r"Continue.*changes how a token is chosen"):
        Continue(["So"], times=1).fwd_hooks(tiny_model, [1, 2, 3])
    with pytest.raises(ValueError, match="a hook cannot know the candidate"):
        Recycle(1, THIRD).fwd_hooks(tiny_bridge, [1, 2, 3])
    with pytest.raises(ValueError, match=r"fwd_hooks got 'What'; expected a trace"):
        EVERYWHERE.fwd_hooks(tiny_model, "What")
    hooks = EVERYWHERE.fwd_hooks(tiny_model, [1, 2, 3])
    with pytest.raises(ValueError, match="a pass over 5 positions, and these hooks are for 3"):
        tiny_model.run_with_hooks(torch.tensor([[1, 2, 3, 4, 5]]), fwd_hooks=hooks)
    hooks = EVERYWHERE.fwd_hooks(tiny_bridge, [1, 2, 3])
    with pytest.raises(ValueError, match=r"reads the tokens \[1, 2, 4\]"):
        tiny_bridge.run_with_hooks(torch.tensor([[1, 2, 4]]), fwd_hooks=hooks)
