from dataclasses import replace
from typing import Any

import pytest
import torch

from mi_lens.generation.engines.vllm_engine import VLLMEngine
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.row import Row
from mi_lens.interventions.steer import Steer, random_like
from mi_lens.interventions.vector import SteeringVector
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.traces.think_block import boundary_ids
from tests.processes import result_of

PROMPTS = ["What is 12 * 7 - 5?", "Hi"]
VECTOR = torch.linspace(-1, 2, 32, dtype=torch.float64)
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def by_hand(model, trace, steer, wanted):
    """Next-token logits of a trace, steered at wanted positions of the whole sequence."""
    ids = [*trace.prompt_ids, *trace.token_ids]
    places = torch.tensor([wanted(i - len(trace.prompt_ids) + 1, t) for i, t in enumerate(ids)])

    def act(states, hook):
        if steer.variant == "project":
            unit = VECTOR / VECTOR.norm()
            change = -steer.alpha * (states @ unit)[..., None] * unit
        elif steer.variant == "random":
            change = steer.alpha * random_like(VECTOR, steer.seed)
        else:
            change = steer.alpha * VECTOR
        return torch.where(places[None, :, None], states + change, states)

    with torch.no_grad(), model.hooks(fwd_hooks=[(HOOK, act)]):
        logits = model(torch.tensor([ids]))[0]
    return logits[len(trace.prompt_ids) - 1 : -1].argmax(-1).tolist()


@pytest.mark.parametrize("variant", ["add", "project", "random"])
@pytest.mark.parametrize("prompt", [False, True])
def test_steering_equals_a_hook_on_the_whole_sequence(tiny_model, variant, prompt):
    words = tuple(range(0, 384, 4))
    steer = Steer(
        VECTOR, HOOK, 2.0, words, inside_think=False, prompt=prompt, variant=variant, seed=3
    )
    plain = generate(tiny_model, PROMPTS, max_new_tokens=16, progress=False)
    traces = generate(tiny_model, PROMPTS, steer, max_new_tokens=16, progress=False)
    assert [t.token_ids for t in traces] != [t.token_ids for t in plain]
    for trace in traces:

        def wanted(generated, token):
            return token in words and (generated > 0 or prompt)

        # The last token is written and never read.
        ids = [*trace.prompt_ids, *trace.token_ids[:-1]]
        places = [(i - len(trace.prompt_ids) + 1, token) for i, token in enumerate(ids)]
        noted = [s for e in trace.events for s in range(e["step"], e["last"] + 1)]
        assert noted == [step for step, token in places if wanted(step, token)]
        assert all(e["what"] == "steer" and e["hook_name"] == HOOK for e in trace.events)

        assert by_hand(tiny_model, trace, steer, wanted) == list(trace.token_ids)


def test_neighbouring_steps_are_one_event(tiny_model):
    steer = Steer(VECTOR, HOOK, at="all", inside_think=False)
    (trace,) = generate(tiny_model, PROMPTS[:1], steer, max_new_tokens=6, progress=False)
    event = {"step": 1, "what": "steer", "hook_name": HOOK, "last": len(trace) - 1}
    assert trace.events == (event,)


def test_boundaries_inside_the_think_block(model):
    encode = model.tokenizer.encode
    (boundary,) = encode("\n\n")
    assert boundary in boundary_ids(model.tokenizer)
    end = encode("</think>")[0]
    prefix = (40, boundary, 41, end, boundary, 42)

    def read(condition):
        seen = []
        request = Request(PROMPTS[0], condition, max_new_tokens=7, prefix=prefix)
        hooks = [("blocks.2.hook_resid_pre", lambda states, hook: seen.append(states[0].clone()))]
        with model.hooks(fwd_hooks=hooks):
            (trace,) = generate(model, [request], progress=False)
        return seen[0], len(trace.prompt_ids)

    for inside_think, steered in ((True, {2}), (False, {2, 5})):
        steer = Steer(VECTOR, HOOK, 5.0, inside_think=inside_think)
        plain, start = read(Condition())
        changed, _ = read(Condition((steer,)))
        moved = (plain - changed).norm(dim=-1) > 1e-9
        # The first steered position and the ones that attend to it.
        assert not moved[: start + 1].any()
        exactly = (changed - plain - 5.0 * VECTOR).norm(dim=-1) < 1e-6
        assert {i - start + 1 for i in exactly.nonzero()[:, 0].tolist()} >= {min(steered)}
        assert {i - start + 1 for i in exactly.nonzero()[:, 0].tolist()} <= steered


def test_a_blank_line_of_two_tokens_is_a_boundary(tiny_model):
    (line_end,) = tiny_model.tokenizer.encode("\n")
    steer = Steer(VECTOR, HOOK, 5.0)
    prefix = (40, line_end, line_end, 41, line_end, 42)
    request = Request(PROMPTS[0], Condition((steer,)), max_new_tokens=7, prefix=prefix)
    (trace,) = generate(tiny_model, [request], progress=False)
    event = {"step": 3, "what": "steer", "hook_name": HOOK, "last": 3}
    assert trace.events[0] == event
    assert trace.events[1:] == () or trace.events[1]["step"] >= len(prefix)


def test_projection_leaves_no_component(tiny_model):
    states = capture(
        tiny_model, generate(tiny_model, PROMPTS, max_new_tokens=4, progress=False), [HOOK]
    )
    action = Steer(VECTOR, HOOK, at="all", prompt=True, variant="project").bind(tiny_model)

    rows = [Row(tiny_model.tokenizer, (1,), 0, 9, [1, 2, 3, 4], reading=4) for _ in states]
    edited = action.edit(HOOK, torch.stack([s[HOOK] for s in states]), rows)
    torch.testing.assert_close(edited @ VECTOR, torch.zeros(2, 4, dtype=torch.float64))


def test_a_random_direction_has_the_norm_of_the_vector():
    draws = [random_like(VECTOR, seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    for draw in draws:
        assert abs(float(draw.norm() / VECTOR.norm()) - 1) < 1e-12


def vector_from(problem):
    counts: Any = {"execution": 3, "reflection": 2, "transition": 1}
    return SteeringVector(HOOK, VECTOR, "m", "E-RT", "seal", counts, {problem.key: problem.id}, 0.9)


def test_problems_that_made_the_vector_are_refused(tiny_model, tmp_path):
    used, fresh = Problem("1", "What is 2?", "2"), Problem("2", "What is 3?", "3")
    own = replace(vector_from(used), model=model_fingerprint(tiny_model))
    own.save(tmp_path / "v.safetensors")
    for source in (own, str(tmp_path / "v.safetensors")):
        steer = Steer(source)
        assert steer.hook_name == HOOK
        generate(tiny_model, [fresh], steer, max_new_tokens=2, progress=False)
        with pytest.raises(ValueError, match="problem 1 is one of those"):
            generate(tiny_model, [fresh, used], steer, max_new_tokens=2, progress=False)
        allowed = Steer(source, allow_overlap=True)
        generate(tiny_model, [used], allowed, max_new_tokens=2, progress=False)
    with pytest.raises(ValueError, match="problem 3 is one of those"):
        Steer(vector_from(used)).check(Problem("3", r"$\displaystyle$ What is $2$", "2"))
    with pytest.raises(ValueError, match="no vector for hook_name="):
        Steer(str(tmp_path / "v.safetensors"), "blocks.0.hook_resid_post")


def test_a_vector_of_another_model_is_told_once(tiny_model):
    problems = [Problem("2", "What is 3?", "3"), Problem("3", "What is 4?", "4")]
    steer = Steer(vector_from(Problem("1", "What is 2?", "2")))
    with pytest.warns(UserWarning, match=r"vector of model m steers model \w{16}") as told:
        (trace, _) = generate(tiny_model, problems, steer, max_new_tokens=2, progress=False)
    assert len(told) == 1
    assert trace.condition.get("interventions", [{}])[0]["of_model"] == "m"
    unknown = Steer(steer.vector, HOOK)  # numbers alone say nothing of their origin
    generate(tiny_model, problems, unknown, max_new_tokens=2, progress=False)


def steer_at_heads(folder) -> list[str]:
    """What is said about states of heads, one of them as wide as the vector."""
    model, said = load(folder, device="cpu"), []
    for name in ("blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"):
        steer = Steer(torch.ones(32), name, at="all", prompt=True)
        action, row = steer.bind(model), Row(model.tokenizer, (1,), 0, 9, [1, 2, 3, 4], reading=4)
        for act in (
            lambda s=steer: generate(model, ["1?"], s, max_new_tokens=3),
            lambda n=name, a=action, r=row: a.edit(n, torch.ones(1, 4, 1, 32), [r]),
        ):
            try:
                act()
                said.append("nothing")
            except ValueError as error:
                said.append(str(error))
    return said


def test_a_vector_is_not_stretched_over_heads(checkpoint):
    for said in result_of(steer_at_heads, checkpoint("qwen2")):
        assert "numbers per position, and the vector 32; steer at a residual state" in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vector": [[1.0]]}, r"vector has shape \[1, 1\]"),
        ({"vector": [0.0, 0.0]}, "is zero"),
        ({"vector": [float("nan"), 1.0]}, "NaN"),
        ({"hook_name": None}, "hook_name is None"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"at": ()}, "no words given"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Steer(**({"vector": [1.0, 2.0], "hook_name": HOOK} | settings))


def test_what_does_not_fit_the_model(tiny_model):
    with pytest.raises(ValueError, match="vector has 3 numbers and the model's residual stream 32"):
        Steer([1.0, 2.0, 3.0], HOOK).bind(tiny_model)
    with pytest.raises(ValueError, match="the model has 3 layers"):
        Steer(VECTOR, "blocks.9.hook_resid_post").bind(tiny_model)


def test_a_vector_is_not_stretched_over_another_width(tiny_model):
    vector = torch.ones(tiny_model.cfg.d_model)
    steer = Steer(vector, "blocks.1.ln1.hook_scale", at="all")
    with pytest.raises(
        ValueError, match=r"hook_scale' holds 1 numbers per position, and the vector"
    ):
        generate(tiny_model, ["1 + 1?"], steer, max_new_tokens=3, progress=False)


HEAD = "blocks.1.attn.hook_z[2]"
OF_HEAD = torch.linspace(1, -2, 8, dtype=torch.float64)


def changed(states, steer, unit):
    """States as the definition says, each by itself."""
    new = states.clone()
    for index in torch.cartesian_prod(*map(torch.arange, states.shape[:-1])):
        h = states[tuple(index)]
        if steer.variant == "project":
            edited = h - steer.alpha * (h @ unit) * unit
        elif steer.unit == "state":
            edited = h + steer.alpha * (h @ h).sqrt() * unit
        else:
            edited = h + steer.alpha * OF_HEAD
        if steer.keep_norm:
            edited = edited * (h @ h).sqrt() / (edited @ edited).sqrt()
        new[tuple(index)] = edited
    return new


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"unit": "state"},
        {"keep_norm": True},
        {"unit": "state", "keep_norm": True, "alpha": -1.5},
        {"variant": "project", "alpha": 2.0, "keep_norm": True},
    ],
    ids=str,
)
def test_a_head_is_steered_as_by_a_hook_on_the_whole_sequence(model, settings):
    steer = Steer(OF_HEAD, HEAD, at="all", inside_think=False, **{"alpha": 2.0, **settings})
    plain = generate(model, PROMPTS, max_new_tokens=12, progress=False)
    traces = generate(model, PROMPTS, steer, max_new_tokens=12, progress=False)
    assert [t.token_ids for t in traces] != [t.token_ids for t in plain]
    unit = OF_HEAD / OF_HEAD.norm()
    for trace in traces:
        first = len(trace.prompt_ids)

        def act(z, hook, first=first):
            assert z.shape[2:] == (4, 8)
            new = z.clone()
            new[:, first:, 2] = changed(z[:, first:, 2], steer, unit.to(z.dtype))
            return new

        ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
        with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", act)]):
            logits = model(ids)[0]
        assert logits[first - 1 : -1].argmax(-1).tolist() == list(trace.token_ids)
        event = {"step": 1, "what": "steer", "hook_name": HEAD, "last": len(trace) - 1}
        assert trace.events == (event,)


def test_a_head_writes_through_its_output_matrix(tiny_model):
    """To add v to a head's output is to add v W_O of this head to the attention's."""
    through = OF_HEAD @ tiny_model.blocks[1].attn.W_O[2]
    settings = {"alpha": 1.5, "at": "all", "prompt": True}
    states = []
    for steer in (
        Steer(OF_HEAD, HEAD, **settings),
        Steer(through, "blocks.1.hook_attn_out", **settings),
    ):
        condition = Condition((steer,))
        (trace,) = generate(
            tiny_model, [Request(PROMPTS[0], condition, max_new_tokens=8)], progress=False
        )
        states.append(capture(tiny_model, [trace], ["blocks.2.hook_resid_post"])[0])
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-10)


def test_heads_and_units_mix_in_one_batch(model):
    shared = {"at": "all", "inside_think": False}
    conditions = [
        Condition(),
        Condition((Steer(OF_HEAD, HEAD, 3.0, **shared),)),
        Condition((Steer(OF_HEAD, HEAD.replace("2]", "0]"), 3.0, **shared),)),
        Condition((Steer(VECTOR, HOOK, 0.7, unit="state", **shared),)),
        Condition((Steer(VECTOR, HOOK, 1.0, variant="project", keep_norm=True, **shared),)),
        Condition(
            tuple(
                Steer(OF_HEAD, f"blocks.{layer}.attn.hook_z[{head}]", 2.0, **shared)
                for layer in range(3)
                for head in range(4)
            )
        ),
    ]
    requests = [Request(p, c, max_new_tokens=10) for p in PROMPTS for c in conditions]
    together = generate(model, requests, batch_size=len(requests), progress=False)
    alone = [generate(model, [request], progress=False)[0] for request in requests]
    assert [t.token_ids for t in together] == [t.token_ids for t in alone]
    assert [t.events for t in together] == [t.events for t in alone]
    assert len({t.token_ids for t in together}) > 6


def test_later_settings_leave_earlier_ids_alone():
    steer = Steer(VECTOR, HOOK)
    assert not {"unit", "keep_norm"} & steer.to_json().keys()
    condition = Condition((Steer(OF_HEAD, HEAD, unit="state", keep_norm=True),))
    again = Condition.from_json(condition.to_json())
    assert again.interventions == condition.interventions
    assert Condition((Steer(VECTOR, HOOK, unit="state"),)) != Condition((steer,))
    assert Steer(VECTOR, HOOK, unit="state") != steer
    assert Steer(VECTOR, HOOK, unit="state").to_json()["unit"] == "state"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_is_kept_in_every_dtype(tiny_model, dtype):
    steer = Steer(VECTOR, HOOK, 2.0, "all", prompt=True, keep_norm=True, unit="state")
    action: Any = steer.bind(tiny_model)
    action.unit, action.shift = action.unit.to(dtype), action.shift.to(dtype)
    states = 40 * torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    states[0, 3] = 0  # nothing has no norm and no direction
    row = Row(tiny_model.tokenizer, (1,), 0, 9, [1, 2, 3, 4], reading=5)
    edited = action.edit(HOOK, states, [row])
    assert edited.dtype == dtype
    assert edited.isfinite().all()
    before, after = states.double().norm(dim=-1), edited.double().norm(dim=-1)
    torch.testing.assert_close(after, before, rtol=3 * torch.finfo(dtype).eps, atol=0)
    assert not edited[0, 3].any()


def test_what_lies_along_the_vector_vanishes_when_projected(tiny_model):
    steer = Steer(VECTOR, HOOK, 1.0, "all", prompt=True, variant="project", keep_norm=True)
    unit = VECTOR / VECTOR.norm()
    row = Row(tiny_model.tokenizer, (1,), 0, 9, [1], reading=2)
    states = torch.stack([torch.zeros_like(unit), unit])[None]
    edited = steer.bind(tiny_model).edit(HOOK, states, [row])
    assert edited.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "norm"}, "unit='norm'"),
        ({"keep_norm": 1}, "keep_norm=1"),
        ({"unit": "state", "variant": "project"}, "leave unit out"),
    ],
)
def test_impossible_units_are_named(settings, message):
    # In a child, where nothing checks types before the settings themselves do.
    assert message in result_of(refusal_of, settings)


def refusal_of(settings) -> str:
    """What is said about impossible settings."""
    try:
        Steer(torch.ones(3), HOOK, **settings)
    except ValueError as error:
        return str(error)
    return "nothing"


def test_heads_that_a_model_does_not_have(tiny_model):
    for name, message in (
        ("blocks.1.attn.hook_z[4]", "the model has 4 heads, 0 to 3"),
        ("blocks.9.attn.hook_z[0]", "the model has 3 layers"),
        ("blocks.1.hook_resid_post[0]", "only an attention output has heads"),
    ):
        with pytest.raises(ValueError, match=message):
            Steer(OF_HEAD, name).bind(tiny_model)
    with pytest.raises(ValueError, match="vector has 32 numbers and a head of the model 8"):
        Steer(VECTOR, HEAD).bind(tiny_model)


def test_vllm_refuses_heads_by_name():
    request = Request(PROMPTS[0], Condition((Steer(OF_HEAD, HEAD),)))
    refused = VLLMEngine.refusal(request)
    assert refused is not None
    assert "steering at 'blocks.1.attn.hook_z[2]', and on vLLM only the residual" in refused
    assert (
        VLLMEngine.refusal(Request("1?", Condition((Steer(VECTOR, HOOK, unit="state"),)))) is None
    )
