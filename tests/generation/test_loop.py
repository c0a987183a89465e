"""The loop: rows with different conditions, rows that come and go, interventions of one's own."""

from dataclasses import dataclass

import pytest
import torch

from mi_lens.generation.generate import GenerationInterrupted, generate, stream
from mi_lens.generation.loop import Decoder
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.row import positions
from mi_lens.interventions.sampling import Sampling, choose_tokens
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.models.backends.lookup import get_backend

PROMPTS = ["What is 12 * 7 - 5?", "Hi", "So let me think. What is 3?", "2"]
THIRD, FIFTH = tuple(range(0, 384, 3)), tuple(range(2, 384, 5))
EVEN = tuple(range(0, 384, 2))
VECTOR = torch.linspace(-1, 1, 32).tolist()
CONDITIONS = [
    Condition(),
    Condition(sampling=Sampling(temperature=0.8)),
    Condition((Suppress(THIRD),)),
    Condition((LogitPenalty(FIFTH, -2.0), Suppress([7, 9]))),
    Condition((Recycle(0, THIRD),)),
    Condition((Recycle(1, THIRD, trigger="consumed", kv="keep"),)),
    Condition((Recycle(2, FIFTH, passes=2),), Sampling(temperature=0.7)),
    Condition((Steer(VECTOR, "blocks.1.hook_resid_post", at=THIRD),)),
    Condition((Steer(VECTOR, "blocks.0.hook_resid_mid", -2.0, at="all", prompt=True),)),
    Condition(
        (
            RaiseTemperature(FIFTH, 1.5),
            Steer(VECTOR, "blocks.1.hook_resid_post", at=THIRD, variant="project"),
        )
    ),
    Condition(
        (
            Recycle(1, THIRD),
            Steer(VECTOR, "blocks.2.hook_resid_post", at="all"),
            LogitPenalty(FIFTH, -1.0),
            Continue(["Wait", "So"], times=2, reserve=2),
        )
    ),
    Condition((Recycle((0, 1), EVEN, passes=2, damping=0.5),)),
    Condition((Recycle((1, 2), THIRD, trigger="consumed", kv="keep"),)),
]


@pytest.fixture(params=["tiny_model", "tiny_bridge"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_conditions_mix_in_a_batch_and_no_row_notices(model):
    requests = [
        Request(
            PROMPTS[i % len(PROMPTS)],
            condition,
            seed=i,
            max_new_tokens=6 + i % 5,
            prefix=(10, 11, 12) if i % 4 == 0 else (),
        )
        for i, condition in enumerate(CONDITIONS)
    ]
    alone = [generate(model, [request], progress=False)[0] for request in requests]
    order = torch.randperm(len(requests), generator=torch.Generator().manual_seed(0)).tolist()
    for size in (len(requests), 4, 3):
        mixed = generate(model, [requests[i] for i in order], batch_size=size, progress=False)
        assert mixed == [alone[i] for i in order]
    recycled = [i for i, t in enumerate(alone) if any(e["what"] == "recycle" for e in t.events)]
    assert recycled == [4, 5, 6, 10, 11, 12]
    assert all(
        trace.token_ids[: len(r.prefix)] == r.prefix
        for trace, r in zip(alone, requests, strict=True)
    )


@pytest.mark.slow
def test_conditions_of_a_prompt_share_its_row_until_they_differ(model, monkeypatch):
    conditions = [c for c in CONDITIONS if not c.sampling.temperature]
    conditions += [Condition((Recycle(layer, (7, 11)),)) for layer in range(3)]
    requests = [Request(PROMPTS[0], condition, max_new_tokens=14) for condition in conditions]
    alone = [generate(model, [request], progress=False)[0] for request in requests]
    widths = []
    advance = Decoder._step

    def spy(self, current, batch, tokens):
        widths.append((len(batch.jobs), len(tokens)))
        return advance(self, current, batch, tokens)

    monkeypatch.setattr(Decoder, "_step", spy)
    assert generate(model, requests, progress=False) == alone
    assert widths[0] == (len(requests), 2)  # one condition steers at the prompt already
    for step, (jobs, strands) in enumerate(widths):
        # Rows are apart once their tokens are, or once something acted on their states.
        apart = {trace.token_ids[:step] for trace in alone if len(trace) > step}
        assert len(apart) <= strands <= jobs
    steered = [
        any(isinstance(intervention, Steer) for intervention in c.interventions) for c in conditions
    ]
    quiet = [t for t, acts in zip(alone, steered, strict=True) if not (t.events or acts)]
    untouched = [t for t in quiet if t.token_ids == alone[0].token_ids]
    assert len(untouched) > 1
    assert widths[-1][1] <= widths[-1][0] - len(untouched) + 1


def test_a_waiting_row_takes_a_finished_ones_place(tiny_model, monkeypatch):
    requests = [Request(p, max_new_tokens=n) for p, n in zip(PROMPTS, [12, 2, 3, 4], strict=True)]
    from mi_lens.models.backends import hooked

    widths = []
    step = hooked.step

    def spy(model, tokens, mask, cache, logits_to_keep=None):
        widths.append(tuple(tokens.shape))
        return step(model, tokens, mask, cache, logits_to_keep)

    monkeypatch.setattr(hooked, "step", spy)
    order = [done.index for done in stream(Plan(tiny_model), requests, batch_size=2)]
    assert order == [1, 2, 3, 0]
    assert sum(new > 1 for _, new in widths) == 3  # two prompts together, then one at a time
    assert sum(new == 1 for _, new in widths) == 11  # as many as the longest row needs
    assert sum(rows == 2 and new == 1 for rows, new in widths) == 1 + 2 + 3


def test_only_rows_whose_logits_change_are_drawn_without_the_change(tiny_model, monkeypatch):
    drawn = []

    def spy(logits, samplings, numbers):
        drawn.extend(sampling.temperature for sampling in samplings)
        return choose_tokens(logits, samplings, numbers)

    monkeypatch.setattr("mi_lens.generation.candidates.choose_tokens", spy)
    acts = [(), (Suppress(THIRD),), (Steer(VECTOR, "blocks.1.hook_resid_post", at=THIRD),)]
    requests = [
        Request(PROMPTS[0], Condition(interventions, Sampling(0.7 + 0.1 * i)), max_new_tokens=5)
        for i, interventions in enumerate(acts)
    ]
    together = generate(tiny_model, requests, progress=False)
    draws = [drawn.count(request.condition.sampling.temperature) for request in requests]
    assert draws == [5, 10, 5]
    assert together == [generate(tiny_model, [request], progress=False)[0] for request in requests]
    assert any(event["what"] == "logits" for event in together[1].events)
    assert not together[0].events


def test_a_prefix_is_read_as_if_it_had_been_generated(model):
    (whole,) = generate(model, PROMPTS[:1], max_new_tokens=12, progress=False)
    cut = whole.token_ids[:5]
    (rest,) = generate(model, [Request(PROMPTS[0], max_new_tokens=12, prefix=cut)], progress=False)
    assert rest.token_ids == whole.token_ids
    assert rest.id != whole.id


def test_steering_acts_on_a_prefix_as_it_did_when_that_was_generated(tiny_model):
    steer = Condition((Steer(VECTOR, "blocks.1.hook_resid_post", 3.0, at=THIRD),))
    requests = [Request(PROMPTS[0], steer, max_new_tokens=12)]
    (whole,) = generate(tiny_model, requests, progress=False)
    prefix = whole.token_ids[:5]
    assert set(prefix) & set(THIRD)
    requests = [Request(PROMPTS[0], steer, max_new_tokens=12, prefix=prefix)]
    assert generate(tiny_model, requests, progress=False)[0].token_ids == whole.token_ids


def test_stop_texts_and_tokens(tiny_model):
    (free,) = generate(tiny_model, PROMPTS[:1], max_new_tokens=20, progress=False)
    text = tiny_model.tokenizer.decode(free.token_ids[6:9])
    (stopped,) = generate(tiny_model, PROMPTS[:1], max_new_tokens=20, stop=[text], progress=False)
    assert stopped.stop_reason == "stop"
    assert text in stopped.text
    assert text not in tiny_model.tokenizer.decode(stopped.token_ids[:-1])
    assert free.token_ids[: len(stopped)] == stopped.token_ids
    token = free.token_ids[4]
    (stopped,) = generate(tiny_model, PROMPTS[:1], max_new_tokens=20, stop=[token], progress=False)
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(token) + 1]


def test_an_interrupt_keeps_what_is_done(tiny_model):
    requests = [Request(p, max_new_tokens=n) for p, n in zip(PROMPTS, [9, 2, 3, 9], strict=True)]
    whole = generate(tiny_model, requests, progress=False)
    calls = 0

    def interrupt(activation, hook):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt

    with (
        tiny_model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", interrupt)]),
        pytest.raises(GenerationInterrupted, match="2 of 4 traces") as error,
    ):
        generate(tiny_model, requests, progress=False)
    kept = {index: trace.token_ids for index, trace in error.value.traces.items()}
    assert kept == {1: whole[1].token_ids, 2: whole[2].token_ids}


def test_no_hook_stays_on_the_model(model):
    requests = [Request(p, CONDITIONS[4], max_new_tokens=3 + i) for i, p in enumerate(PROMPTS)]
    for _ in stream(Plan(model), requests):
        assert not any(
            point.fwd_hooks
            for name, point in model.hook_dict.items()
            if name == "blocks.0.hook_resid_post"
        )


@dataclass(frozen=True)
class Watch(Intervention):
    """Writes down what a row shows of itself, and forces two tokens once."""

    at: int

    def bind(self, model):
        return _Watch(self.at)

    def to_json(self):
        return {"at": self.at}


class _Watch(Action):
    hook_names = ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_post")

    def __init__(self, at):
        self.at = at

    def edit(self, hook_name, states, rows):
        for row, state in zip(rows, states, strict=True):
            assert row.reading == min(len(state), row.reading)
            row.note("saw", hook=hook_name, read=list(row.read()), thought=row.thought)
        return states

    def replace(self, row, candidate, end_ids):
        if row.step == self.at:
            row.forced.extend([20, 21])
        return candidate


def test_an_intervention_of_ones_own(model):
    requests = [
        Request(p, Condition((Watch(i + 1),)), max_new_tokens=8) for i, p in enumerate(PROMPTS)
    ]
    plain = generate(model, PROMPTS, max_new_tokens=8, progress=False)
    for i, trace in enumerate(generate(model, requests, progress=False)):
        assert trace.token_ids[: i + 2] == plain[i].token_ids[: i + 2]
        assert trace.token_ids[i + 2 : i + 4] == (20, 21)
        seen = [e["read"] for e in trace.events if e["hook"] == "blocks.2.hook_resid_post"]
        assert seen[0] == list(trace.prompt_ids)
        assert [token for read in seen[1:] for token in read] == list(trace.token_ids[:-1])
        assert trace.condition.get("interventions") == [{"kind": "Watch", "at": i + 1}]


def test_thoughts_and_think_blocks_are_seen(tiny_model):
    encode = tiny_model.tokenizer.encode
    start, end = encode("<think>")[0], encode("</think>")[0]
    seen = []

    class Spy(Action):
        hook_names = ("blocks.0.hook_resid_pre",)

        def edit(self, hook_name, states, rows):
            (row,) = rows
            seen.append((row.thinking(), row.thought))
            mask = positions(rows, states.shape[1], lambda row, token, n: row.thinking(max(n, 0)))
            seen.append(int(mask[0, -row.reading :].sum()))
            return states

    class Once(Intervention):
        def bind(self, model):
            return Spy()

        def to_json(self):
            return {}

    prefix = [*encode("So\n\nWait, no"), end, *encode("\n\nAlternatively"), start]
    request = Request(
        "Hi", Condition((Once(),)), max_new_tokens=len(prefix) + 1, prefix=tuple(prefix)
    )
    (trace,) = generate(tiny_model, [request], progress=False)
    assert seen[0] == (True, "transition")
    outside = len(encode("\n\nAlternatively")) + 1
    assert seen[1] == len(trace.prompt_ids) + len(prefix) - outside


@pytest.mark.parametrize("length", [1, 7, 16])
def test_long_prompts_are_read_in_segments(tiny_model, monkeypatch, length):
    words = tuple(range(40, 200))
    conditions = [
        Condition(),
        Condition((Steer(VECTOR, "blocks.1.hook_resid_post", at=words, inside_think=False),)),
        Condition((Recycle(1, words),)),
        Condition((Recycle(1, words, trigger="consumed"),)),
    ]
    requests = [Request(p, each, max_new_tokens=6) for p in PROMPTS for each in conditions]
    at_once = generate(tiny_model, requests, progress=False)
    assert {event["what"] for trace in at_once for event in trace.events} == {"steer", "recycle"}
    monkeypatch.setattr("mi_lens.generation.loop.SEGMENT", length)
    widths = []
    backend = get_backend("hooked")
    step = backend.step

    def spy(model, tokens, mask, cache, logits_to_keep):
        widths.append(tokens.shape[1])
        return step(model, tokens, mask, cache, logits_to_keep)

    monkeypatch.setattr(backend, "step", spy)
    assert generate(tiny_model, requests, progress=False) == at_once
    assert max(widths) <= length
    widths.clear()
    seen = []
    hook = ("blocks.0.hook_resid_post", lambda state, hook: seen.append(state.shape[1]))
    assert [t.token_ids for t in generate(tiny_model, requests, fwd_hooks=[hook], progress=False)]
    assert max(seen) == max(widths) == max(len(trace.prompt_ids) for trace in at_once)
