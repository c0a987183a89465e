"""A probe ends the thinking where its log odds say so, by states that capture() reads."""

from dataclasses import replace

import pytest
import torch

from mi_lens.common.tensor_file import write_tensors
from mi_lens.generation.generate import generate
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.early_exit import EarlyExit
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.probe_exit import ProbeExit
from mi_lens.interventions.steer import Steer
from mi_lens.models.loading import load
from mi_lens.problems.loading import load_problems
from mi_lens.states.capture import capture

HOOK = "blocks.1.hook_resid_post"
STEPS = 80


@pytest.fixture(scope="module")
def pocket():
    return load("pocket-reasoner", dtype="float64")


@pytest.fixture(scope="module")
def problems():
    return load_problems("pocket", limit=3)


@pytest.fixture(scope="module")
def probe():
    weights = 0.02 * torch.randn(128, generator=torch.Generator().manual_seed(2))
    about = ("m", "right trace", 0.7, 0.6, 0.8, 4, 5, (0.0, 1.0), {"a key": "an id"})
    return StateProbe(HOOK, weights.tolist(), 0.25, *about)


@pytest.mark.parametrize(("backend", "steered"), [("hooked", True), ("bridge", False)])
def test_the_state_at_a_boundary_decides(problems, probe, backend, steered):
    """The first boundary whose log odds are above the threshold, by states read anew."""
    pocket = load("pocket-reasoner", dtype="float64", backend=backend)
    encode, decode = pocket.tokenizer.encode, pocket.tokenizer.decode
    direction = torch.linspace(-2, 2, pocket.cfg.d_model)
    steer = (Steer(direction, "blocks.0.hook_resid_post", 0.5, at="all"),) if steered else ()
    watch = ProbeExit(replace(probe, model=""), 1.0)
    asked = [Request(p, Condition((*steer, watch)), max_new_tokens=STEPS) for p in problems]
    plain = [Request(p, Condition(steer), max_new_tokens=STEPS) for p in problems]
    traces = generate(pocket, [*asked, *plain], batch_size=4, progress=False)
    odds = []
    for trace, other in zip(traces[:3], traces[3:], strict=True):
        assert trace.token_ids == other.token_ids  # At 1 it never ends.
        (states,) = capture(pocket, [other], [HOOK])
        told = [event for event in trace.events if event["what"] == "probe"]
        steps = [
            step
            for step in range(1, len(trace))
            if "\n\n" in decode(trace.token_ids[step - 1])
            and "</think>" not in decode(trace.token_ids[:step])
        ]
        assert [event["step"] for event in told] == steps
        found = states[HOOK][steps].double() @ torch.tensor(probe.weights).double() + probe.bias
        assert [e["right"] for e in told] == pytest.approx(found.sigmoid().tolist(), abs=6e-5)
        odds.append(found.sigmoid().tolist())
    threshold = sum(sorted(odds[0])[-2:]) / 2  # The largest alone is above it.
    exits = replace(watch, threshold=threshold)
    again = generate(
        pocket,
        [replace(request, condition=Condition((*steer, exits))) for request in asked],
        batch_size=3,
        progress=False,
    )
    for trace, plain_trace, chances in zip(again, traces[:3], odds, strict=True):
        over = [i for i, chance in enumerate(chances) if chance > threshold]
        done = [event for event in trace.events if event["what"] == "exit"]
        assert len(done) == bool(over)
        if over:
            step = [e for e in plain_trace.events if e["what"] == "probe"][over[0]]["step"]
            ending = encode("\n</think>\n\n")
            assert trace.token_ids[:step] == plain_trace.token_ids[:step]
            assert list(trace.token_ids[step : step + len(ending)]) == ending[: STEPS - step]
    assert [e["what"] for e in again[0].events].count("exit") == 1


def test_a_probe_and_trials_together(pocket, problems, probe):
    parts = EarlyExit(1.0, "boundary"), ProbeExit(replace(probe, model=""), 1.0)
    both, alone = generate(
        pocket,
        [Request(problems[0], Condition(some), max_new_tokens=60) for some in (parts, parts[1:])],
        progress=False,
    )
    assert both.token_ids == alone.token_ids
    assert [e for e in both.events if e["what"] == "probe"] == list(alone.events)


def test_its_file(probe, tmp_path):
    path = tmp_path / "probe.safetensors"
    probe.save(path)
    assert ProbeExit(path, 0.8) == ProbeExit(probe, 0.8)
    held = path.read_bytes()
    path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(ValueError, match="its numbers were altered"):
        ProbeExit(path)
    path.write_bytes(held[:-4])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        ProbeExit(path)
    write_tensors(path, {"weights": torch.ones(2)}, {"hook_name": HOOK})
    with pytest.raises(ValueError, match="not the file of a probe"):
        ProbeExit(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        ProbeExit(tmp_path / "none")


def test_problems_it_was_trained_on_are_refused(pocket, problems, probe):
    used = replace(probe, problems={problems[1].key: problems[1].id})
    plan = Plan(pocket)
    with pytest.warns(UserWarning, match="a probe of model m reads model"):
        plan.job(0, Request(problems[0], Condition((ProbeExit(used),))))
    with pytest.raises(ValueError, match=f"{problems[1].id} is one of those that the probe of"):
        plan.job(0, Request(problems[1], Condition((ProbeExit(used),))))


def test_no_hook_exits(pocket, probe):
    settings = ProbeExit(probe, 0.5)
    with pytest.raises(ValueError, match="changes how a token is chosen, which no hook can"):
        settings.fwd_hooks(pocket, [1, 2, 3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": 3}, "probe=3: expected a StateProbe"),
        ({"threshold": -0.1}, "threshold=-0.1"),
        ({"ending": ""}, "ending=''"),
    ],
)
def test_impossible_settings_are_named(probe, settings, message):
    with pytest.raises(ValueError, match=message):
        ProbeExit(**({"probe": probe} | settings))


def test_weights_must_fit_the_model(pocket, probe):
    with pytest.raises(ValueError, match="the probe has 3 weights and the model's residual stream"):
        ProbeExit(replace(probe, weights=(1.0, 2.0, 3.0))).bind(pocket)
    wide = ProbeExit(replace(probe, hook_name="blocks.0.mlp.hook_post", model=""))
    with pytest.raises(ValueError, match="holds states of 384 numbers, and the probe has 128"):
        generate(pocket, ["Hi"], wide, max_new_tokens=STEPS, progress=False)
