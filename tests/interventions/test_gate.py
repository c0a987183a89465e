"""Gates, beside evaluations without a cache: a whole forward pass for every step."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition, parse_condition, parse_intervention
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.forbid import ForbidAt
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.replay import with_condition
from mi_lens.interventions.sampling import Sampling, choose_tokens, uniform_key, uniforms
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace_files import load_traces, save_traces
from tests.interventions.test_recycle import ByHand

PROMPT = "So let me think. What is 12 * 7 - 5?"
THIRD = tuple(range(0, 384, 3))
VECTOR = torch.linspace(-1, 2, 32, dtype=torch.float64)
HOOK = "blocks.1.hook_resid_post"
STEER = Steer(VECTOR, HOOK, 2.0, at="all", inside_think=False)
NEW = 24


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def entropy(logits):
    p = logits.double().softmax(-1)
    return float(-(p * p.log2()).sum())


def forward(model, tokens, hooks=()):
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=list(hooks))[0, -1]


@pytest.fixture(scope="module")
def middle(tiny_model):
    """An entropy that about half of the steps of a plain trace are above."""
    (trace,) = generate(tiny_model, [PROMPT], max_new_tokens=NEW, progress=False)
    ids = [*trace.prompt_ids, *trace.token_ids]
    with torch.no_grad():
        logits = tiny_model(torch.tensor([ids]))[0, len(trace.prompt_ids) - 1 : -1]
    return float(np.median([entropy(row) for row in logits]))


def steps_open(trace, on):
    return [
        step
        for event in trace.events
        if event["what"] == "gate" and event["on"] == on
        for step in range(event["step"], event["last"] + 1)
    ]


def test_suppression_by_hand(tiny_model, middle):
    gate = Gate(Suppress(THIRD), entropy=middle)
    (trace,) = generate(tiny_model, [PROMPT], gate, max_new_tokens=NEW, progress=False)
    tokens, above = list(trace.prompt_ids), []
    for step in range(len(trace)):
        logits = forward(tiny_model, tokens)
        if entropy(logits) > middle:
            above.append(step)
            logits[list(THIRD)] = -torch.inf
        tokens.append(int(logits.argmax()))
    assert tokens == [*trace.prompt_ids, *trace.token_ids]
    assert steps_open(trace, "choice") == above
    assert 3 < len(above) < len(trace) - 3


def test_temperature_by_hand(tiny_model, middle):
    """The device decides which of two samplings counts."""
    gate = Gate(RaiseTemperature(tuple(range(390)), 1.0), entropy=middle)
    (trace,) = generate(tiny_model, [PROMPT], gate, seed=5, max_new_tokens=NEW, progress=False)
    tokens, above = list(trace.prompt_ids), []
    key = uniform_key(5, trace.prompt_ids, "token")
    for step in range(len(trace)):
        logits = forward(tiny_model, tokens)
        token = int(logits.argmax())
        if entropy(logits) > middle and step:  # The prompt's last token is no word.
            above.append(step)
            number = torch.from_numpy(uniforms(key, step, 1))
            token = int(choose_tokens(logits[None], [Sampling(1.0)], number))
        tokens.append(token)
    assert tokens == [*trace.prompt_ids, *trace.token_ids]
    assert steps_open(trace, "choice") == above
    (warm,) = generate(
        tiny_model, [PROMPT], temperature=1.0, seed=5, max_new_tokens=NEW, progress=False
    )
    assert warm.token_ids != trace.token_ids


def test_steering_by_hand(tiny_model, middle):
    """By the entropy of the step that emitted the token which is read."""
    gate = Gate(STEER, entropy=middle)
    (trace,) = generate(tiny_model, [PROMPT], gate, max_new_tokens=NEW, progress=False)
    tokens, places, above = list(trace.prompt_ids), [], []

    def add(states, hook):
        states = states.clone()
        states[:, places] += 2 * VECTOR
        return states

    for step in range(len(trace)):
        logits = forward(tiny_model, tokens, [(HOOK, add)])
        if entropy(logits) > middle:
            places.append(len(tokens))
            above.append(step + 1)
        tokens.append(int(logits.argmax()))
    assert tokens == [*trace.prompt_ids, *trace.token_ids]
    assert steps_open(trace, "states") == [step for step in above if step < len(trace)]
    assert 3 < len(above) < len(trace)


class GatedByHand(ByHand):
    """Recycles only where the entropy, of this step or of the step before, is high."""

    def __init__(self, model, settings, bound):
        super().__init__(model, settings)
        self.bound, self.entropies = bound, []

    def logits(self, state):
        logits = super().logits(state)
        self.entropies.append(entropy(logits))
        return logits

    def recycle(self, state):
        if self.entropies[-1] > self.bound:
            return super().recycle(state)
        self.closed = True
        return state


@pytest.mark.parametrize("layer", [1, (0, 1)])
def test_recycling_of_consumed_tokens_by_hand(tiny_model, middle, layer):
    settings = Recycle(layer, THIRD, passes=2, trigger="consumed", damping=0.5)
    gate = Gate(settings, entropy=middle)
    (trace,) = generate(tiny_model, [PROMPT], gate, max_new_tokens=NEW, progress=False)
    by_hand = GatedByHand(tiny_model, settings, middle)
    assert by_hand.decode(trace.prompt_ids, len(trace)) == list(trace.token_ids)
    recycled = [event["step"] for event in trace.events if event["what"] == "recycle"]
    assert recycled == steps_open(trace, "states")
    assert 0 < len(recycled) < len(by_hand.recycled)


def test_recycling_of_candidates_acts_by_this_steps_entropy(tiny_model, middle):
    """Until the first act, the states are those of a plain pass."""
    gate = Gate(Recycle(1, THIRD), entropy=middle)
    (trace,) = generate(tiny_model, [PROMPT], gate, max_new_tokens=NEW, progress=False)
    first = next(event["step"] for event in trace.events if event["what"] == "recycle")
    tokens, shut = list(trace.prompt_ids), 0
    for step in range(first + 1):
        logits = forward(tiny_model, tokens)
        asks = int(logits.argmax()) in THIRD
        assert (asks and entropy(logits) > middle) == (step == first)
        shut += asks and step < first
        tokens.append(trace.token_ids[step])
    (ungated,) = generate(
        tiny_model, [PROMPT], Recycle(1, THIRD), max_new_tokens=NEW, progress=False
    )
    recycled = [sum(e["what"] == "recycle" for e in t.events) for t in (trace, ungated)]
    assert 0 < recycled[0] < recycled[1]


@dataclass(frozen=True)
class Both(Intervention):
    """One's own: acts on states and on logits."""

    def bind(self, model):
        return _Both()

    def to_json(self):
        return {}


class _Both(Action):
    hook_names = ("blocks.1.attn.hook_z",)
    by_position = True

    def edit(self, hook_name, states, rows):
        states = states.clone()
        for i, row in enumerate(rows):
            states[i, -row.reading :, 2] = 0
        return states

    def logits(self, logits, rows):
        return logits - torch.arange(logits.shape[-1]) % 3


KINDS = {
    "Suppress": Suppress(THIRD),
    "LogitPenalty": LogitPenalty(THIRD, -3.0),
    "RaiseTemperature": RaiseTemperature(THIRD, 1.0),
    "Steer": STEER,
    "Recycle": Recycle(1, THIRD),
    "Recycle consumed": Recycle((0, 1), THIRD, trigger="consumed", damping=0.5),
    "Continue": Continue(["So"], times=2, reserve=2),
    "ForbidAt": ForbidAt(3, 7),
}


@pytest.mark.parametrize("kind", KINDS)
def test_always_open_is_ungated_and_always_closed_the_baseline(tiny_model, kind):
    inner = KINDS[kind]
    ends = (LogitPenalty([tiny_model.tokenizer.eos_token_id], 9.0),) if kind == "Continue" else ()
    conditions = [
        Condition((*parts, *ends))
        for parts in (
            (inner,),
            (Gate(inner, entropy=0.0, steps=(0, None), times=999),),
            (),
            (Gate(inner, entropy=99.0),),
            (Gate(inner, steps=(99, None)),),
        )
    ]
    requests = [Request(PROMPT, condition, seed=1, max_new_tokens=NEW) for condition in conditions]
    ungated, is_open, baseline, *closed = generate(tiny_model, requests, progress=False)
    assert is_open.token_ids == ungated.token_ids
    others = [event for event in is_open.events if event["what"] != "gate"]
    assert others == list(ungated.events)
    assert [trace.token_ids for trace in closed] == [baseline.token_ids] * 2
    assert all(trace.events == baseline.events for trace in closed)
    if kind != "ForbidAt":
        assert ungated.token_ids != baseline.token_ids


def probe_at(hook_name, seed=0, **changes):
    weights = torch.randn(32, generator=torch.Generator().manual_seed(seed)).tolist()
    about: dict[str, Any] = {
        "hook_name": hook_name,
        "weights": weights,
        "bias": 0.1,
        "model": "",
        "target": "peak by IQR(tau=1.5)",
        "auc": 0.7,
        "auc_low": 0.6,
        "auc_high": 0.8,
        "positives": 5,
        "others": 50,
        "quantiles": (0.0, 0.25, 1.0),
        "problems": {},
    }
    return StateProbe(**(about | changes))


def test_a_probe_by_hand(tiny_model):
    probe = probe_at(HOOK)
    (trace,) = generate(
        tiny_model, [PROMPT], Gate(Suppress(THIRD), probe=probe), max_new_tokens=NEW, progress=False
    )
    tokens, above, kept = list(trace.prompt_ids), [], []

    def keep(states, hook):
        kept.append(states[0, -1])

    for step in range(len(trace)):
        logits = forward(tiny_model, tokens, [(HOOK, keep)])
        if float(kept[-1] @ torch.tensor(probe.weights, dtype=torch.float64)) + 0.1 > 0:
            above.append(step)
            logits[list(THIRD)] = -torch.inf
        tokens.append(int(logits.argmax()))
    assert tokens == [*trace.prompt_ids, *trace.token_ids]
    assert steps_open(trace, "choice") == above
    assert 0 < len(above) < len(trace)


@pytest.mark.slow
def test_gates_mix_in_a_batch_and_no_row_notices(model, middle):
    probe = probe_at("blocks.0.hook_resid_post", seed=1)
    gates = [
        *(Gate(inner, entropy=middle) for inner in KINDS.values()),
        Gate(Both(), entropy=middle),
        Gate(STEER, probe=probe),
        Gate(Recycle((1, 2), THIRD), probe=probe, entropy=middle - 0.5),
        Gate(Suppress(THIRD), times=3),
        Gate(Recycle(1, THIRD, trigger="consumed"), steps=(4, 12), times=2),
    ]
    conditions = [
        Condition(),
        *(Condition((gate,), Sampling(0.7 * (i % 2))) for i, gate in enumerate(gates)),
        Condition((gates[3], gates[4], gates[0], gates[6])),
    ]
    requests = [
        Request(
            ("Hi", PROMPT)[i % 2],
            condition,
            seed=i,
            max_new_tokens=10 + i % 5,
            prefix=(10, 11, 12) if i % 4 == 0 else (),
        )
        for i, condition in enumerate(conditions)
    ]
    alone = [generate(model, [request], progress=False)[0] for request in requests]
    order = np.random.default_rng(0).permutation(len(requests)).tolist()
    for size in (len(requests), 4):
        mixed = generate(model, [requests[i] for i in order], batch_size=size, progress=False)
        assert mixed == [alone[i] for i in order]
    assert sum(any(e["what"] == "gate" for e in trace.events) for trace in alone) > 8


def test_conditions_of_a_prompt_share_its_row_while_gates_are_closed(tiny_model, monkeypatch):
    from mi_lens.generation.loop import Decoder

    widths = []
    advance = Decoder._step

    def spy(self, current, batch, tokens):
        widths.append(len(tokens))
        return advance(self, current, batch, tokens)

    monkeypatch.setattr(Decoder, "_step", spy)
    gates = [Gate(KINDS[kind], steps=(6, None)) for kind in ("Steer", "Recycle consumed")]
    requests = [Request(PROMPT, Condition((gate,)), max_new_tokens=12) for gate in gates]
    generate(tiny_model, requests, progress=False)
    assert widths[:6] == [1] * 6
    assert widths[-1] == 2


def test_steps_and_times(tiny_model):
    def gated(**conditions):
        gate = Gate(Recycle(1, tuple(range(384))), **conditions)
        (trace,) = generate(tiny_model, [PROMPT], gate, max_new_tokens=12, progress=False)
        return [event["step"] for event in trace.events if event["what"] == "recycle"]

    assert gated(steps=(3, 6)) == [3, 4, 5, 6]
    assert gated(times=2) == [0, 1]
    assert gated(steps=(5, None), times=3) == [5, 6, 7]
    assert gated(steps=(10, None)) == [10, 11]


def test_a_budget_counts_what_acts(tiny_model):
    """A word that nobody writes uses up nothing."""
    trace = generate(
        tiny_model,
        [PROMPT],
        Gate(Steer(VECTOR, HOOK, at=THIRD), times=2),
        max_new_tokens=NEW,
        progress=False,
    )[0]
    ids = [*trace.prompt_ids, *trace.token_ids]
    read = [t for t in range(1, len(trace)) if ids[len(trace.prompt_ids) + t - 1] in THIRD]
    assert steps_open(trace, "states") == read[:2]


def test_a_file_of_traces_holds_what_gates_need(tiny_model, tmp_path, middle):
    probe = probe_at(HOOK, weights=[0.1] * 32)
    long = probe_at(HOOK, weights=[0.1] * 96)
    condition = Condition((Gate(STEER, probe=probe, entropy=middle),))
    (trace,) = generate(tiny_model, [PROMPT], condition, max_new_tokens=6, progress=False)
    save_traces([trace], tmp_path / "traces.jsonl")
    (again,) = load_traces(tmp_path / "traces.jsonl")
    assert again.events == trace.events
    (given,) = with_condition([again], condition)
    assert given.interventions == condition.interventions
    described = Condition((Gate(STEER, probe=long),)).describe()["interventions"][0]
    assert described["probe"]["weights"].keys() == {"length", "hash"}


def test_a_probes_file(tmp_path):
    probe = probe_at(HOOK, problems={"key": "id"})
    probe.save(tmp_path / "probe.safetensors")
    assert StateProbe.load(tmp_path / "probe.safetensors") == probe
    text = f"Gate(Suppress([3]), probe={str(tmp_path / 'probe.safetensors')!r}, above=0.2)"
    gate = parse_intervention(text)
    assert isinstance(gate, Gate)
    assert (gate.probe, gate.above) == (probe, 0.2)
    assert Condition.from_json(Condition((gate,)).to_json()).interventions == (gate,)
    assert probe.quantile(0.75) == 0.625
    data = (tmp_path / "probe.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(data[:-9])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        StateProbe.load(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no such file"):
        StateProbe.load(tmp_path / "none")


def test_problems_of_the_probe_are_refused(tiny_model):
    problem = Problem("p", "What is 2 + 2?", "4", source="test", split="test")
    probe = probe_at(HOOK, problems={problem.key: "p"})
    with pytest.raises(ValueError, match="problem p is one of those that the probe of Gate"):
        generate(tiny_model, [problem], Gate(STEER, probe=probe), progress=False)
    gate = Gate(STEER, probe=probe, allow_overlap=True)
    assert generate(tiny_model, [problem], gate, max_new_tokens=2, progress=False)
    with pytest.warns(UserWarning, match="a probe of model other reads model"):
        generate(
            tiny_model,
            [PROMPT],
            Gate(STEER, probe=probe_at(HOOK, model="other")),
            max_new_tokens=2,
            progress=False,
        )


def test_the_written_form():
    text = "late=Gate(Recycle((1, 2), ['So'], damping=0.5), entropy=1.0, steps=(3, None)) + " + (
        "Gate(intervention=Suppress(words=('Wait',)), times=2)"
    )
    condition = parse_condition(text)
    first = Recycle((1, 2), ["So"], damping=0.5)
    assert condition.interventions == (
        Gate(first, entropy=1.0, steps=(3, None)),
        Gate(Suppress(["Wait"]), times=2),
    )
    assert condition.name == "late"
    for part in condition.interventions:
        assert parse_intervention(repr(part)) == part
        assert hash(parse_intervention(repr(part))) == hash(part)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Gate(Suppress(['a']))", "a gate without a condition"),
        ("Gate(Suppress(['a']), entropy=-1.0)", "entropy=-1.0: expected at least 0"),
        ("Gate(Suppress(['a']), entropy=1e999)", "entropy=inf"),
        ("Gate(Suppress(['a']), times=0)", "times=0: expected at least 1"),
        ("Gate(Suppress(['a']), steps=(5, 2))", r"steps=\(5, 2\): expected the first and the"),
        ("Gate(Suppress(['a']), steps=(None, 2))", r"steps=\(None, 2\): expected the first"),
        ("Gate(Suppress(['a']), steps=(1,))", r"steps=\(1,\): expected the first and the last"),
        ("Gate(Suppress(['a']), entropy=1.0, above=2.0)", "above=2.0"),
        ("Gate(Gate(Suppress(['a']), times=1), times=1)", "expected an intervention that is no g"),
        ("Gate(Supress(['a']), times=1)", "'Supress': expected one of"),
        ("Gate(open('x'), times=1)", "'open': expected one of"),
        ("Gate(3, times=1)", "intervention=3: expected an intervention"),
        ("Gate(Suppress(open('x')), times=1)", "expected a call with literal arguments"),
        ("Suppress(Suppress(['a']))", "expected a call with literal arguments"),
    ],
)
def test_impossible_gates_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_intervention(text)


def test_what_cannot_be_gated_together_is_refused(tiny_model):
    gates = [Gate(Recycle(layer, ["so"]), times=1) for layer in (1, 2)]
    with pytest.raises(ValueError, match="only one Recycle"):
        Condition(tuple(gates))
    warm = Gate(RaiseTemperature(["so"], 1.0), entropy=1.0)
    with pytest.raises(ValueError, match="two gates on entropy or on a probe decide how"):
        generate(tiny_model, [PROMPT], [warm, warm], progress=False)
    wide = probe_at(HOOK, weights=[1.0] * 8)
    with pytest.raises(ValueError, match="probe has 8 weights and the model's residual stream 32"):
        generate(tiny_model, [PROMPT], Gate(STEER, probe=wide), progress=False)
    with pytest.raises(ValueError, match="a plain pass does not tell where a gate is open"):
        Gate(STEER, times=1).fwd_hooks(tiny_model, [1, 2, 3])
    with pytest.raises(ValueError, match="changes how a token is chosen"):
        Gate(Continue(["So"]), times=1).fwd_hooks(tiny_model, [1, 2, 3])


def test_the_middle_is_no_extreme(middle):
    assert 1 < middle < math.log2(390)
