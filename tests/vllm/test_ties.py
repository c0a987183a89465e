from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import LogitPenalty, Suppress
from tests.vllm.ties import differences, is_tie, require_ties

SAMPLED = Sampling(0.9, top_p=0.95)
TWINS = 300, 333  # Tokens with one unembedding.


@pytest.fixture(scope="module")
def model(checkpoint):
    """A tiny model in float64, for which two tokens are always equally likely."""
    from mi_lens.models.loading import load

    loaded = load(str(checkpoint("qwen3")), backend="hooked", dtype="float64", device="cpu")
    with torch.no_grad():
        loaded.unembed.W_U[:, TWINS[1]] = loaded.unembed.W_U[:, TWINS[0]]
    return loaded


def conditions(often):
    shift = torch.linspace(-1, 1, 32)
    return [
        Condition(),
        Condition((Suppress(often),)),
        Condition((Recycle(1, often),)),
        Condition((Recycle(0, often, trigger="consumed"),), SAMPLED),
        Condition((Steer(shift, "blocks.1.hook_resid_post", 0.5, at=often), Recycle(2, often))),
        Condition((LogitPenalty([1], 4.0), Continue(["So"], before="", reserve=2)), SAMPLED),
        Condition((), SAMPLED),
    ]


@pytest.fixture(scope="module")
def asked(model):
    """Requests under all kinds of conditions, and their traces."""
    plain = generate(model, ["Hi", "So, 3?"], max_new_tokens=30, progress=False)
    often = sorted({token for trace in plain for token in trace.token_ids[5::6]})
    requests = [
        Request(question, condition, max_new_tokens=24, seed=seed, prefix=prefix)
        for seed, question in enumerate(["Hi", "So, 3?", "What is 12 * 7?"])
        for condition in conditions(often)
        for prefix in ((), (9, 8, 7))
    ]
    return requests, generate(model, requests, progress=False)


def changed(trace, step, token):
    ids = [*trace.token_ids]
    ids[step] = token
    events = [
        event | ({"emitted": token} if event["step"] == step and "emitted" in event else {})
        for event in trace.events
    ]
    return replace(trace, token_ids=tuple(ids), events=tuple(events))


def test_equal_traces_need_no_tie(asked):
    requests, traces = asked
    assert require_ties(None, requests, traces, traces) == 0
    kinds = {event["what"] for trace in traces for event in trace.events}
    assert kinds == {"steer", "recycle", "logits", "continue"}


@pytest.mark.parametrize("step", [4, 17])
def test_any_other_token_is_no_tie(model, asked, step):
    requests, traces = (each[step % 2 :: 3] for each in asked)
    refused = 0
    for request, trace in zip(requests, traces, strict=True):
        if step >= len(trace):
            continue
        other = changed(trace, step, (trace.token_ids[step] + 1) % 300)
        with pytest.raises(AssertionError, match=r"is no tie|Draws|from the same candidates"):
            require_ties(model, [request], [trace], [other])
        refused += 1
    assert refused > len(requests) / 2


def test_tokens_with_the_same_logits_are_tied(model, asked):
    requests, traces = asked
    tied = 0
    for request, trace in zip(requests, traces, strict=True):
        for step in range(3 * bool(request.prefix), len(trace)):
            if trace.token_ids[step] not in TWINS or trace.events:
                continue
            (other,) = set(TWINS) - {trace.token_ids[step]}
            assert require_ties(model, [request], [trace], [changed(trace, step, other)]) == 1
            tied += 1
    assert tied


def test_what_no_tie_explains_is_refused(model, asked):
    requests, traces = (each[::2] for each in asked)
    for request, trace in zip(requests, traces, strict=True):
        for other in (
            replace(trace, token_ids=trace.token_ids[:-1]),
            replace(trace, stop_reason="eos" if trace.stop_reason != "eos" else "length"),
            replace(trace, events=(*trace.events, {"step": 0, "what": "steer", "last": 0})),
        ):
            with pytest.raises(AssertionError):
                differences(trace, other)
        for i, event in enumerate(trace.events):
            if event["what"] != "logits" and i < 2:
                without = replace(trace, events=trace.events[:i] + trace.events[i + 1 :])
                with pytest.raises(AssertionError):
                    require_ties(model, [request], [trace], [without])


def test_a_word_that_would_have_been_written_may_be_tied_too(model, asked):
    requests, traces = asked
    seen = 0
    for request, trace in zip(requests, traces, strict=True):
        for i, event in enumerate(trace.events):
            if event["what"] != "logits":
                continue
            other = event | {"wanted": (event["wanted"] + 1) % 300}
            events = (*trace.events[:i], other, *trace.events[i + 1 :])
            with pytest.raises(AssertionError, match=r"acted_on=False. is no tie"):
                require_ties(model, [request], [trace], [replace(trace, events=events)])
            seen += 1
            break
    assert seen


def test_a_tie_by_hand():
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    sampling = Sampling(1.0)
    assert is_tie(logits, (0, 1), sampling, 0.50005)
    assert is_tie(logits, (0, 1), sampling, 0.49995)
    assert is_tie(logits, (1, 2), sampling, 0.8)
    assert not is_tie(logits, (0, 1), sampling, 0.503)
    assert not is_tie(logits, (0, 1), sampling, 0.8)
    assert not is_tie(logits, (0, 2), sampling, 0.5)
    assert not is_tie(logits, (0, 2), sampling, 0.8)
    # At the edge of what top_p keeps, token 1 may be all that is left beside token 0.
    edge = Sampling(1.0, top_p=0.8)
    assert is_tie(logits, (1, 2), edge, 0.9)
    assert not is_tie(logits, (1, 2), replace(edge, top_p=0.79), 0.9)
    assert not is_tie(logits, (1, 2), replace(edge, top_k=2), 0.9)
    greedy = Sampling()
    assert not is_tie(logits, (0, 1), greedy, 0.5)
    assert is_tie(np.array([1.0, 1.00005, 0.0]), (0, 1), greedy, 0.0)
    assert not is_tie(np.array([1.0, 1.00005, 3.0]), (0, 1), greedy, 0.0)
    # Equally likely tokens may stand in either order.
    assert is_tie(np.array([1.0, 1.00005, 0.0]), (0, 1), sampling, 0.1)
    assert not is_tie(np.array([1.0, 1.00005, 0.0]), (0, 1), sampling, 0.95)
