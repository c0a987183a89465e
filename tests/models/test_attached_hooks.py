"""One's own hooks on a model: seen on both classes, named, and never taken for the baseline."""

import json
from functools import partial

import pytest
import torch

from mi_lens.evaluation.comparison import compare
from mi_lens.evaluation.evaluate import evaluate
from mi_lens.evaluation.graded_traces import arm_of_traces
from mi_lens.generation.generate import generate, stream
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.steer import Steer
from mi_lens.models.attached_hooks import UserHooks, attached_hooks
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.states.capture_to_disk import capture_into

Z, OUTPUT = "blocks.1.attn.hook_z", "blocks.1.hook_resid_post"
PROBLEMS = [Problem(str(i), f"What is {i} + 3?", str(i + 3), source="sums") for i in range(2)]
SETTINGS = {"max_new_tokens": 8, "progress": False}


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def zero(activation, hook):
    return activation * 0


def seen(model):
    return [(hook.function, hook.at) for hook in attached_hooks(model)]


def test_hooks_are_seen_wherever_the_user_puts_them(model):
    generate(model, ["Hi"], max_new_tokens=1, progress=False)  # a bridge attaches its own hooks now
    assert attached_hooks(model) == []
    with model.hooks(fwd_hooks=[(Z, zero), (OUTPUT, partial(zero))]):
        assert sorted(seen(model)) == [("zero", Z), ("zero", OUTPUT)]
    model.add_hook(Z, zero, is_permanent=True)
    assert seen(model) == [("zero", Z)]
    model.hook_dict[Z].remove_hooks(including_permanent=True)
    point = model.hook_dict[OUTPUT]
    for add in (point.register_forward_pre_hook, point.register_forward_hook):
        handle = add(lambda module, *activations: None)
        assert seen(model) == [("<lambda>", OUTPUT)]
        handle.remove()
    handle = model.ln_final.register_forward_hook(lambda *_: None)
    ((_, path),) = seen(model)
    assert path.endswith(("ln_final", "norm"))
    handle.remove()
    assert attached_hooks(model) == []


def test_hooks_given_are_hooks_around_the_call(model):
    (plain,) = generate(model, PROBLEMS[:1], **SETTINGS)
    assert "hooks" not in plain.condition
    with model.hooks(fwd_hooks=[(Z, zero)]):
        (around,) = generate(model, PROBLEMS[:1], hooks_named="zero, v1", **SETTINGS)
    hooks = {"fwd_hooks": [(Z, zero)], "hooks_named": "zero, v1"}
    (given,) = generate(model, PROBLEMS[:1], **hooks, **SETTINGS)
    assert given == around
    assert given.condition.get("hooks") == "zero, v1"
    assert given.token_ids != plain.token_ids
    assert given.id != plain.id
    by_function = [(lambda name: name == Z, zero)]
    (picked,) = generate(model, PROBLEMS[:1], fwd_hooks=by_function, **SETTINGS)
    assert picked.token_ids == given.token_ids
    assert picked.condition.get("hooks") == f"unnamed: zero at {Z}"
    assert len({plain.id, given.id, picked.id}) == 3
    assert attached_hooks(model) == []


def test_hooks_given_fire_before_interventions_in_every_step(model):
    seen_states = []
    hooks = [(OUTPUT, lambda states, hook: seen_states.append(states[0].clone()))]
    steer = Steer([1.0] * 32, OUTPUT, at="all", prompt=True)
    (trace,) = generate(model, ["Hi"], steer, fwd_hooks=hooks, max_new_tokens=5, progress=False)
    assert list(map(len, seen_states)) == [len(trace.prompt_ids), *[1] * (len(trace) - 1)]
    (plain,) = generate(model, ["Hi"], max_new_tokens=1, progress=False)
    (unsteered,) = capture(model, [plain], [OUTPUT])
    torch.testing.assert_close(seen_states[0][-1:], unsteered[OUTPUT])


def test_hooks_given_are_removed_after_an_error_and_between_traces(model):
    def fail(states, hook):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        generate(model, ["Hi"], fwd_hooks=[(Z, zero), (OUTPUT, fail)], progress=False)
    assert attached_hooks(model) == []
    requests = [Request("Hi", max_new_tokens=2), Request("Hi", max_new_tokens=4)]
    for _ in stream(Plan(model, [(Z, zero)], "zero"), requests):
        assert attached_hooks(model) == []


def test_hooks_that_do_not_fit_are_refused(model):
    for hooks, message in (
        ([("blocks.1.attn.hook_zz", zero)], "'blocks.1.attn.hook_zz' does not exist.*near.*hook_z"),
        ([("blocks.1.attn.hook_result", zero)], "switched off"),
        ([(lambda name: name == "none", zero)], "picks none of the model's hook names"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, ["Hi"], fwd_hooks=hooks, hooks_named="zero")
    with pytest.raises(ValueError, match=r"hooks_named='zero', but there are no hooks"):
        generate(model, ["Hi"], hooks_named="zero")
    with pytest.raises(ValueError, match="how hooks without a name are called"):
        UserHooks(model, [(Z, zero)], "unnamed: zero")
    assert attached_hooks(model) == []


def test_a_plan_made_before_the_hooks_is_refused(model, tmp_path):
    plan = Plan(model)
    with (
        model.hooks(fwd_hooks=[(Z, zero)]),
        pytest.raises(ValueError, match="not those that it had when the Plan was made"),
    ):
        generate_into(tmp_path, plan, [Request("Hi")], batch_size=1)
    with model.hooks(fwd_hooks=[(Z, zero)]):
        plan = Plan(model, hooks_named="zero")
    with pytest.raises(ValueError, match="not those that it had"):
        next(stream(plan, [Request("Hi")]))


def test_an_evaluation_under_hooks_never_returns_the_baselines_results(model, tmp_path):
    baseline = evaluate(model, PROBLEMS, [Condition()], folder=tmp_path, **SETTINGS)
    kept = (tmp_path / "traces.jsonl").read_bytes()
    with model.hooks(fwd_hooks=[(Z, zero)]):
        refused = r"hooks of yours are on the model: zero at blocks\.1\.attn\.hook_z.*hooks_named="
        with pytest.raises(ValueError, match=refused):
            evaluate(model, PROBLEMS, [Condition()], folder=tmp_path, **SETTINGS)
        with pytest.raises(ValueError, match=refused):
            evaluate(model, PROBLEMS, [Condition()], folder=tmp_path / "new", **SETTINGS)
        unnamed = evaluate(model, PROBLEMS, [Condition()], **SETTINGS)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "traces.jsonl").read_bytes() == kept
    named = {"fwd_hooks": [(Z, zero)], "hooks_named": "zero all heads, v1", "folder": tmp_path}
    hooked = evaluate(model, PROBLEMS, [Condition()], **named, **SETTINGS)
    # The truth, generated under the hook without any folder.
    truth = generate(model, PROBLEMS, fwd_hooks=[(Z, zero)], **SETTINGS)
    rows = map(json.loads, (tmp_path / "traces.jsonl").read_text("utf-8").splitlines())
    tokens = {row["id"]: tuple(row["token_ids"]) for row in rows}
    assert len(tokens) == 2 * len(PROBLEMS)
    assert [tokens[result.trace] for result in hooked.results] == [t.token_ids for t in truth]
    assert {r.trace for r in hooked.results}.isdisjoint(r.trace for r in baseline.results)
    assert [tokens[r.trace] for r in baseline.results] != [t.token_ids for t in truth]
    again = evaluate(model, PROBLEMS, [Condition()], folder=tmp_path, **SETTINGS)
    assert again.results == baseline.results
    for evaluation, differs in (
        (again, ()),
        (hooked, ("hooks: 'zero all heads, v1' against None",)),
        (unnamed, (f"hooks: 'unnamed: zero at {Z}' against None",)),
    ):
        compared = compare(evaluation.arm("baseline"), baseline.arm("baseline"))
        assert compared.settings_differ == differs


def test_traces_under_hooks_make_an_arm_that_says_so(model):
    plain = generate(model, PROBLEMS, **SETTINGS)
    hooked = generate(model, PROBLEMS, fwd_hooks=[(Z, zero)], hooks_named="zero, v1", **SETTINGS)
    assert arm_of_traces(hooked, model.tokenizer, {}).setting["hooks"] == "zero, v1"
    with pytest.raises(ValueError, match="under the same hooks"):
        arm_of_traces([plain[0], hooked[1]], model.tokenizer, {})


def test_a_folder_of_states_takes_a_trace_under_its_own_hooks_only(model, tmp_path):
    (plain,) = generate(model, PROBLEMS[:1], **SETTINGS)
    (hooked,) = generate(
        model, PROBLEMS[:1], fwd_hooks=[(Z, zero)], hooks_named="zero, v1", **SETTINGS
    )
    (unnamed,) = generate(model, PROBLEMS[:1], fwd_hooks=[(Z, zero)], **SETTINGS)
    with pytest.raises(ValueError, match=r"under hooks, 'zero, v1', that are not on the model now"):
        capture_into(model, [hooked], [OUTPUT], tmp_path)
    with model.hooks(fwd_hooks=[(Z, zero)]):
        for trace in (plain, unnamed):
            with pytest.raises(ValueError, match=r"zero at blocks\.1\.attn\.hook_z.*with capture"):
                capture_into(model, [trace], [OUTPUT], tmp_path)
        assert not list(tmp_path.iterdir())
        assert capture(model, [plain], [OUTPUT])[0][OUTPUT].shape == (len(plain), 32)
        (path,) = capture_into(model, [hooked], [OUTPUT], tmp_path)
    assert path.stem == hooked.id
