"""DEER by hand: every token, of traces and of trial answers, by a whole forward pass."""

from dataclasses import replace
from math import exp
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.generation.resume import generate_into
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.early_exit import FINAL, EarlyExit
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.models.loading import load, load_outline
from mi_lens.problems.loading import load_problems
from mi_lens.states.capture import capture

BOX = "\n</think>\n\nThe result is \\boxed{"
WORDS = ("Wait", "Hmm", "Alternatively")
STEPS = 72


@pytest.fixture(scope="module")
def pocket():
    return load("pocket-reasoner", dtype="float64")


@pytest.fixture(scope="module")
def bridge():
    return load("pocket-reasoner", dtype="float64", backend="bridge")


@pytest.fixture(scope="module")
def problems():
    return load_problems("pocket", limit=3)


def next_logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0, -1].double()


def by_hand(model, prompt_ids, settings):
    """Tokens, trial answers and the step of the exit, greedily, without any cache."""
    tokenizer = model.tokenizer
    encode, decode = tokenizer.encode, tokenizer.decode
    ids, trials, left = [], [], None
    while len(ids) < STEPS and (not ids or ids[-1] != tokenizer.eos_token_id):
        token = int(next_logits(model, [*prompt_ids, *ids]).argmax())
        at = decode(ids).endswith("\n\n") if settings.at == "boundary" else None
        here = decode([token]).strip() in settings.at if at is None else at
        if here and "</think>" not in decode(ids) and left is None:
            tried, answer, logs = [*prompt_ids, *ids, *encode(settings.final)], [], []
            while len(answer) < settings.final_tokens and "}" not in decode(answer):
                logits = next_logits(model, tried)
                logs.append(float(logits.log_softmax(-1).max()))
                answer.append(int(logits.argmax()))
                tried.append(answer[-1])
            confidence = exp(sum(logs) / len(logs))
            trials.append((len(ids), decode(answer).split("}")[0].strip(), confidence))
            if confidence > settings.threshold:
                left = len(ids)
                ids += encode("\n</think>\n\n")
                continue
        ids.append(token)
    return ids[:STEPS], trials, left


@pytest.mark.parametrize(
    "settings",
    [EarlyExit(0.999, "boundary", final=BOX), EarlyExit(0.995, WORDS), EarlyExit(0.5, WORDS)],
    ids=["boundary", "sure", "unsure"],
)
def test_deer_by_hand(pocket, problems, settings):
    requests = [Request(p, Condition((settings,)), max_new_tokens=STEPS) for p in problems[:1]]
    for trace in generate(pocket, requests, batch_size=2, progress=False):
        ids, trials, left = by_hand(pocket, trace.prompt_ids, settings)
        assert list(trace.token_ids) == ids
        told = [event for event in trace.events if event["what"] == "trial"]
        assert [(e["step"], e["answer"]) for e in told] == [trial[:2] for trial in trials]
        confidences = [event["confidence"] for event in told]
        assert confidences == pytest.approx([trial[2] for trial in trials], abs=6e-5)
        exited = [event["step"] for event in trace.events if event["what"] == "exit"]
        assert exited == ([] if left is None else [left])
        assert all(
            event["passes"] >= len(pocket.tokenizer.encode(settings.final)) for event in told
        )
        assert trials
        assert trace.stop_reason in ("eos", "length")


def conditions(pocket):
    """Pairs of a condition without trials, and with trials that never end it."""
    never = EarlyExit(1.0, "boundary", final=BOX, trials=None)
    steer = Steer(torch.linspace(-1, 1, pocket.cfg.d_model), "blocks.1.hook_resid_post", 0.5)
    recycle = Recycle(2, [*WORDS, "So"], probability=0.7)
    consumed = Suppress(["Hmm"]), Recycle(1, WORDS, trigger="consumed")
    for parts, warmth in (((), 0.0), ((), 0.8), ((steer, recycle), 0.8), (consumed, 0.0)):
        yield Condition(parts, Sampling(warmth)), Condition((*parts, never), Sampling(warmth))


@pytest.mark.parametrize("backend", ["pocket", "bridge"])
def test_a_trial_that_ends_nothing_changes_nothing(backend, problems, request):
    """Neither tokens nor events; in one batch, whose rows share and part."""
    model = request.getfixturevalue(backend)
    pairs = list(conditions(model))
    requests = [
        Request(problems[0], condition, seed=1, max_new_tokens=STEPS, stop=("Therefore",))
        for pair in pairs
        for condition in pair
    ]
    traces = generate(model, requests, batch_size=5, progress=False)
    for plain, tried in zip(traces[::2], traces[1::2], strict=True):
        assert tried.token_ids == plain.token_ids
        assert tried.stop_reason == plain.stop_reason
        others = [event for event in tried.events if event["what"] != "trial"]
        assert others == list(plain.events)
        assert len(tried.events) > len(others)


def test_a_bridge_exits_where_the_other_does(pocket, bridge, problems):
    settings = EarlyExit(0.97, "boundary", final=BOX)
    one, other = (
        generate(model, problems[:1], settings, max_new_tokens=40, progress=False)[0]
        for model in (pocket, bridge)
    )
    assert one.token_ids == other.token_ids
    assert [e["what"] for e in one.events] == [e["what"] for e in other.events]
    assert one.events[-1]["what"] == "exit"


def test_states_of_a_trace_with_trials_are_those_of_its_tokens(pocket, problems):
    settings = EarlyExit(0.97, "boundary", final=BOX)
    (trace,) = generate(pocket, problems[:1], settings, max_new_tokens=60, progress=False)
    assert any(event["what"] == "trial" for event in trace.events)
    (states,) = capture(pocket, [trace], ["blocks.2.hook_resid_post"])
    plain = replace(trace, events=(), interventions=(), condition={})
    (expected,) = capture(pocket, [plain], ["blocks.2.hook_resid_post"])
    torch.testing.assert_close(*(s["blocks.2.hook_resid_post"] for s in (states, expected)))


def test_a_killed_generation_goes_on(pocket, problems, tmp_path):
    settings = EarlyExit(0.97, WORDS, final=BOX)
    requests = [Request(p, Condition((settings,)), max_new_tokens=48) for p in problems]
    whole = generate(pocket, requests, progress=False)

    def kill(finished):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_into(
            tmp_path, Plan(pocket), requests, batch_size=2, progress=False, on_finished=kill
        )
    again = generate_into(tmp_path, Plan(pocket), requests, batch_size=3, progress=False)
    assert [(t.token_ids, t.events) for t in again] == [(t.token_ids, t.events) for t in whole]


def test_there_must_be_room_for_a_trial(pocket, problems):
    """Where the context has no room for it, the generation goes on without."""
    settings = EarlyExit(1.0, "boundary", final=BOX, trials=1)
    (trace,) = generate(pocket, problems[:1], settings, max_new_tokens=STEPS, progress=False)
    assert [event["what"] for event in trace.events] == ["trial"]
    row = Plan(pocket).job(0, Request(problems[0], Condition())).row
    row.token_ids += trace.token_ids[: trace.events[0]["step"]]
    action: Any = settings.bind(pocket)
    length = len(row.prompt_ids) + row.step + len(action.final) + settings.final_tokens
    for context, begins in ((length, False), (length + 1, True)):
        action.cfg = SimpleNamespace(n_ctx=context)
        assert action.begins(row, 5, frozenset()) == begins


def test_a_model_that_marks_no_thinking():
    outline = load_outline("pocket-reasoner", think="none")
    with pytest.raises(ValueError, match="no mark ends its thinking; give the text"):
        EarlyExit().bind(outline)
    EarlyExit(ending="\n\nSo").bind(outline)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"at": "end"}, "at='end': expected 'boundary'"),
        ({"at": []}, "no words given"),
        ({"final": ""}, "final=''"),
        ({"final_tokens": 0}, "final_tokens=0"),
        ({"trials": 0}, "trials=0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EarlyExit(**settings)


def test_where_an_answer_ends(pocket):
    action: Any = EarlyExit().bind(pocket)
    assert FINAL.endswith("{")
    assert action.end_of("42") is None
    assert action.end_of("42}.") == 2
    assert action.end_of("\\frac{1}{2}} so") == 11
    assert action.end_of("4\n2}") == 1
    unboxed: Any = EarlyExit(final="It is").bind(pocket)
    assert unboxed.end_of("4}") is None
