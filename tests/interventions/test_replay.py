"""A trace read again has the states that the model had while it wrote it."""

from dataclasses import dataclass

import pytest
import torch
from transformer_lens import HookedTransformer

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.replay import replay_of, with_condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.models.backends.lookup import backend_of
from mi_lens.states import segments
from mi_lens.states.capture import capture
from mi_lens.states.capture_to_disk import capture_into
from mi_lens.states.shard import load_activations
from mi_lens.states.uncertainty import next_token_uncertainty
from mi_lens.traces.trace_files import load_traces, save_traces

PROMPT = "So let me think. What is 12 * 7 - 5?"
VECTOR = torch.linspace(-1, 2, 32, dtype=torch.float64)
THIRD = tuple(range(0, 384, 3))
OTHERS = tuple(range(1, 384, 3))
# Where edits at the hook names before them are seen.
NAMES = [
    "blocks.1.hook_resid_pre",
    "blocks.1.attn.hook_z",
    "blocks.2.hook_resid_pre",
    "blocks.2.hook_mlp_out",
    "ln_final.hook_normalized",
]
STEER = Steer(VECTOR, "blocks.0.hook_resid_post", 2.0, at=THIRD)


@dataclass(frozen=True)
class ZeroHead(Intervention):
    """Zeroes a head where the token just read is one of some; knows one position at a time."""

    ids: tuple[int, ...]

    def bind(self, model):
        return _ZeroHead(self.ids)

    def to_json(self):
        return {"ids": list(self.ids)}


class _ZeroHead(Action):
    hook_names = ("blocks.1.attn.hook_z",)

    def __init__(self, ids):
        self.ids = ids

    def edit(self, hook_name, states, rows):
        states = states.clone()
        for i, row in enumerate(rows):
            if row.consumed in self.ids:
                states[i, -1, 2] = 0
        return states


INTERVENTIONS = {
    "steer at words": (STEER,),
    "steer everywhere": (Steer(VECTOR, "blocks.1.hook_resid_post", at="all", prompt=True),),
    "project": (Steer(VECTOR, "blocks.1.hook_mlp_out", at=THIRD, variant="project"),),
    "random": (Steer(VECTOR, "blocks.1.hook_resid_mid", at=THIRD, variant="random", seed=4),),
    "recycle candidate": (Recycle(1, THIRD),),
    "recycle candidate, keep": (Recycle(0, THIRD, passes=2, kv="keep"),),
    "recycle by a coin": (Recycle(1, THIRD, probability=0.5),),
    "recycle consumed": (Recycle(1, THIRD, trigger="consumed"),),
    "recycle consumed, keep": (Recycle(1, THIRD, passes=3, trigger="consumed", kv="keep"),),
    "recycle range, candidate": (Recycle((0, 1), THIRD, passes=2, damping=0.5),),
    "recycle range, consumed, keep": (
        Recycle((1, 2), THIRD, trigger="consumed", kv="keep", damping=0.7),
    ),
    "recycle range with steering inside": (
        Recycle((0, 2), OTHERS, trigger="consumed"),
        Steer(VECTOR, "blocks.1.hook_resid_post", 2.0, at=THIRD),
    ),
    "recycle two layers": (
        Recycle(0, THIRD, trigger="consumed"),
        Recycle(2, OTHERS, trigger="consumed", kv="keep"),
    ),
    "gate of a steering": (Gate(STEER, entropy=6.4),),
    "gate of a recycling": (Gate(Recycle((1, 2), THIRD, trigger="consumed"), entropy=6.4),),
    "gate of a recycling of candidates": (Gate(Recycle(1, THIRD, kv="keep"), times=2),),
    "gate of suppression": (Gate(Suppress(THIRD), entropy=6.4),),
    "gate of one's own": (Gate(ZeroHead(THIRD), steps=(3, None), times=12),),
    "suppress": (Suppress(THIRD),),
    "penalty": (LogitPenalty(THIRD, -2.5),),
    "temperature": (RaiseTemperature(THIRD, 1.0),),
    "continue": (Continue(["So"], times=1),),
    "of one's own": (ZeroHead(THIRD),),
    "all together": (
        STEER,
        Recycle(1, OTHERS),
        LogitPenalty(THIRD, -1.0),
        ZeroHead(THIRD),
        Steer(VECTOR, "blocks.1.hook_resid_post", -0.5, at=OTHERS),
    ),
}


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


def generate_and_watch(model, names, condition, prefix=(), **settings):
    """A trace, and the states at the last position of each of its steps, as hooks see them.

    In a step in which a block runs again, the last call of a hook is the one that counts.
    """
    seen: list[dict[str, torch.Tensor]] = []

    def begin(states, hook):
        seen.append({})

    def watch(name):
        def keep(states, hook):
            seen[-1][name] = states[0, -1].flatten().clone()

        return name, keep

    request = Request(PROMPT, condition, prefix=tuple(prefix), **settings)
    with model.hooks(fwd_hooks=[("hook_embed", begin), *map(watch, names)]):
        (trace,) = generate(model, [request], progress=False)
    return trace, {name: torch.stack([step[name] for step in seen]) for name in names}


def flat(states):
    return {name: state.flatten(1) for name, state in states.items()}


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_states_are_those_of_the_generation(model, kind, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 4)
    names = [name for name in NAMES if not name.endswith("hook_z")]
    condition = Condition(INTERVENTIONS[kind])
    trace, seen = generate_and_watch(model, names, condition, max_new_tokens=24, seed=3)
    (states,) = capture(model, [trace], names)
    assert len(trace) > 12
    # Hugging Face's norms compute in float32: rounding shows where the prompt is read in segments.
    tolerance = 1e-9 if isinstance(model, HookedTransformer) else 1e-4
    for name in names:
        torch.testing.assert_close(states[name], seen[name], rtol=tolerance, atol=tolerance)
    acts = {"steer", "steering", "recycle", "recycling", "project", "random", "own", "together"}
    changes = set(kind.split()) & acts
    (plain,) = capture(model, [trace], names, condition=None)
    same = (plain[NAMES[-1]] - states[NAMES[-1]]).norm() < 1e-5 * states[NAMES[-1]].norm()
    assert same == (not changes)


@pytest.mark.parametrize(("kind", "whole"), [("steer everywhere", False), ("of one's own", True)])
def test_a_long_prompt_is_read_in_segments(tiny_model, monkeypatch, kind, whole):
    """Unless an action may need all of its states at once."""
    monkeypatch.setattr(segments, "SEGMENT", 4)
    widths = []
    (trace,) = generate(tiny_model, [PROMPT], INTERVENTIONS[kind], max_new_tokens=6, progress=False)
    replay = replay_of(tiny_model, trace)
    with tiny_model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: widths.append(x.shape[1]))]):
        segments.read_in_segments(tiny_model, [trace.prompt_ids], replay=replay)
    prompt = len(trace.prompt_ids)
    assert prompt > 8
    assert widths == ([prompt] if whole else [4] * (prompt // 4) + [prompt % 4] * (prompt % 4 > 0))
    if whole:
        (action,) = replay.actions
        with pytest.raises(ValueError, match=rf"positions 0 to 3.*the first {prompt} at once"):
            action.edit_again(action.hook_names[0], torch.zeros(1, 4, 4, 8), replay.rewound, 0)


@pytest.mark.parametrize("kind", ["steer at words", "recycle candidate", "all together"])
def test_with_a_prefix(tiny_model, kind):
    names = [NAMES[0], NAMES[-1]]
    trace, seen = generate_and_watch(
        tiny_model,
        names,
        Condition(INTERVENTIONS[kind]),
        prefix=(3, 30, 31, 60, 61),
        max_new_tokens=30,
    )
    (states,) = capture(tiny_model, [trace], names, steps=[range(5, len(trace))])
    for name in names:
        torch.testing.assert_close(states[name], seen[name], rtol=1e-9, atol=1e-9)
    (first,) = capture(tiny_model, [trace], names, steps=[[0, 2]])
    (every,) = capture(tiny_model, [trace], names)
    torch.testing.assert_close(first[NAMES[-1]], every[NAMES[-1]][[0, 2]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    ["steer at words", "recycle candidate", "suppress", "penalty", "gate of suppression"],
)
def test_greedy_tokens_are_the_likeliest(model, kind):
    """Of a steered trace read without its condition, they are not."""
    last = "blocks.2.hook_resid_post"
    (trace,) = generate(model, [PROMPT], INTERVENTIONS[kind], max_new_tokens=40, progress=False)
    backend, emitted = backend_of(model), torch.tensor(trace.token_ids)
    agree = {}
    for condition in ("as generated", None):
        (states,) = capture(model, [trace], [last], condition=condition)
        replay = replay_of(model, trace, condition)
        logits = replay.logits(backend.unembed(model, states[last]), 0)
        agree[condition] = (logits.argmax(-1) == emitted).float().mean().item()
        told = next_token_uncertainty(model, trace, states[last], condition=condition)
        log_p = logits.log_softmax(-1).gather(1, emitted[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(told["surprisal"]), -log_p / torch.log(torch.tensor(2.0).double())
        )
    assert agree["as generated"] == 1
    assert agree[None] < 1


def test_traces_with_and_without_interventions_are_read_together(tiny_model, tmp_path):
    conditions = [Condition(), Condition((STEER,)), Condition((Recycle(1, THIRD),)), Condition()]
    requests = [
        Request(PROMPT[i:], condition, max_new_tokens=20) for i, condition in enumerate(conditions)
    ]
    traces = generate(tiny_model, requests, progress=False)
    together = capture(tiny_model, traces, NAMES[-1:], batch_size=3)
    for trace, states in zip(traces, together, strict=True):
        (alone,) = capture(tiny_model, [trace], NAMES[-1:])
        torch.testing.assert_close(states[NAMES[-1]], alone[NAMES[-1]], rtol=1e-9, atol=1e-9)
    for path, states in zip(
        capture_into(tiny_model, traces, NAMES[-1:], tmp_path, batch_size=3), together, strict=True
    ):
        torch.testing.assert_close(load_activations(path)[NAMES[-1]], states[NAMES[-1]])
    with pytest.raises(ValueError, match="condition is 'as generated', not 'none'"):
        capture_into(tiny_model, traces, NAMES[-1:], tmp_path, condition=None)


def test_a_trace_from_a_file(tiny_model, tmp_path):
    long = Steer(VECTOR, "blocks.0.hook_resid_post", at=THIRD[:60])
    (trace,) = generate(tiny_model, [PROMPT], long, max_new_tokens=20, progress=False)
    save_traces([trace], tmp_path / "traces.jsonl")
    (read,) = load_traces(tmp_path / "traces.jsonl")
    assert read == trace
    (wanted,) = capture(tiny_model, [trace], NAMES[-1:])
    (states,) = capture(tiny_model, [read], NAMES[-1:])  # 32 numbers are in the file
    assert torch.equal(states[NAMES[-1]], wanted[NAMES[-1]])


def test_a_hash_stands_for_a_long_list(tiny_model, tmp_path):
    words = tuple(range(0, 384, 2))  # as long as a real model's vector
    suppress = Condition((Suppress(words),))
    (trace,) = generate(tiny_model, [Request(PROMPT, suppress, max_new_tokens=8)], progress=False)
    save_traces([trace], tmp_path / "traces.jsonl")
    (read,) = load_traces(tmp_path / "traces.jsonl")
    with pytest.raises(ValueError, match=r"only a hash of words.*with_condition.*condition=None"):
        capture(tiny_model, [read], NAMES[-1:])
    with pytest.raises(ValueError, match="give the trace's own condition"):
        with_condition([read], Condition((Suppress(words[1:]),)))
    (states,) = capture(tiny_model, with_condition([read], suppress), NAMES[-1:])
    (wanted,) = capture(tiny_model, [trace], NAMES[-1:])
    assert torch.equal(states[NAMES[-1]], wanted[NAMES[-1]])


def test_sampled_tokens(tiny_model):
    condition = Condition((Recycle(1, THIRD, probability=0.5), STEER), Sampling(1.0))
    names = NAMES[2:3]
    trace, seen = generate_and_watch(tiny_model, names, condition, max_new_tokens=40, seed=9)
    assert trace.events
    (states,) = capture(tiny_model, [trace], names)
    torch.testing.assert_close(states[names[0]], seen[names[0]], rtol=1e-9, atol=1e-9)
