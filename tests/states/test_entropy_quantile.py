import numpy as np
import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.gate import Gate
from mi_lens.interventions.suppress import Suppress
from mi_lens.states.entropy_quantile import entropy_quantile

THIRD = tuple(range(0, 384, 3))


def by_hand(model, trace, prefix=0):
    """The model's own entropies, although some words were forbidden."""
    with torch.no_grad():
        logits = model(torch.tensor([[*trace.prompt_ids, *trace.token_ids]]))[0]
    p = logits[len(trace.prompt_ids) - 1 + prefix : -1].double().softmax(-1)
    return -(p * p.log2()).sum(-1).numpy()


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_it_is_of_the_models_own_logits(tiny_model, share):
    requests = [
        Request("Hi", Condition((Suppress(THIRD),)), max_new_tokens=9),
        Request("What is 3?", max_new_tokens=12, prefix=(10, 11, 12)),
    ]
    traces = generate(tiny_model, requests, progress=False)
    entropies = [by_hand(tiny_model, traces[0]), by_hand(tiny_model, traces[1], 3)]
    expected = np.quantile(np.concatenate(entropies), share)
    assert entropy_quantile(tiny_model, traces, share, batch_size=1) == pytest.approx(expected)


def test_a_gate_by_it_is_open_at_that_share_of_steps(tiny_model):
    traces = generate(tiny_model, ["Hi", "So?"], max_new_tokens=20, progress=False)
    bound = entropy_quantile(tiny_model, traces, 0.75)
    gate = Gate(Suppress([380]), entropy=bound)  # A token that is never likely.
    gated = generate(tiny_model, ["Hi", "So?"], gate, max_new_tokens=20, progress=False)
    assert [t.token_ids for t in gated] == [t.token_ids for t in traces]
    is_open = sum(event["last"] - event["step"] + 1 for t in gated for event in t.events)
    assert is_open == pytest.approx(0.25 * sum(map(len, traces)), abs=1)


def test_what_it_refuses(tiny_model):
    with pytest.raises(ValueError, match=r"share=1\.5: expected from 0 to 1"):
        entropy_quantile(tiny_model, [], 1.5)
    with pytest.raises(ValueError, match="0 traces without a step"):
        entropy_quantile(tiny_model, [], 0.5)
    prefix = generate(
        tiny_model, [Request("Hi", max_new_tokens=4, prefix=(10, 11, 12))], progress=False
    )
    assert entropy_quantile(tiny_model, prefix, 0.5) > 0
