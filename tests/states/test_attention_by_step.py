"""Attention that each step pays to words, against whole patterns of TransformerLens's own cache."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mi_lens.states.attention_by_step
from mi_lens.generation.generate import generate
from mi_lens.interventions.steer import Steer
from mi_lens.states.attention_by_step import attention_by_step
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import word_ids

TEXT = "So let me see that again. that is so, and the final is that. So the box is this."


def test_shares_are_those_of_whole_patterns(tiny_model, tiny_bridge, tokenizer, monkeypatch):
    model = tiny_model
    trace = Trace.from_text(tokenizer, "What is so that 12?", TEXT)
    monkeypatch.setattr(mi_lens.states.attention_by_step, "READERS", 7)
    shares = attention_by_step(model, trace, ["so", "that"])
    ids = [*trace.prompt_ids, *trace.token_ids[:-1]]
    chosen = word_ids(model, ["so", "that"])
    _, cache = model.run_with_cache(torch.tensor([ids]))
    first = len(trace.prompt_ids)
    assert any(token in chosen for token in ids[:first])  # which the prompt's do not count
    places = [i for i in range(first, len(ids)) if ids[i] in chosen]
    assert list(shares) == [f"blocks.{n}.attn.hook_pattern" for n in range(3)]
    for layer, share in enumerate(shares.values()):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        expected = [
            pattern[:, first - 1 + step, places].sum(-1).mean().item() for step in range(len(trace))
        ]
        np.testing.assert_allclose(share, expected, rtol=1e-9, atol=1e-12)
        assert share[0] == 0
        assert share.max() > 0.01
    of_bridge = attention_by_step(tiny_bridge, trace, ["so", "that"])
    for name, share in shares.items():
        np.testing.assert_allclose(of_bridge[name], share, rtol=0, atol=1e-6)


def test_words_that_are_not_there(tiny_model, tokenizer):
    trace = Trace.from_text(tokenizer, "What?", "the box is this")
    with pytest.raises(ValueError, match="none of the words"):
        attention_by_step(tiny_model, trace, ["so"])


def test_a_steered_trace_is_read_as_it_was_written(tiny_model):
    vector = torch.linspace(-1, 2, 32, dtype=torch.float64)
    steer = Steer(vector, "blocks.0.hook_resid_post", 3.0, at="all", inside_think=False)
    (trace,) = generate(tiny_model, ["What is that?"], steer, max_new_tokens=20, progress=False)
    words = [trace.token_ids[3]]
    shares = attention_by_step(tiny_model, trace, words)
    plain = attention_by_step(tiny_model, replace(trace.under(()), condition={}), words)
    tokens = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
    with torch.no_grad(), tiny_model.hooks(fwd_hooks=steer.fwd_hooks(tiny_model, trace)):
        _, cache = tiny_model.run_with_cache(tokens)
    first = len(trace.prompt_ids)
    places = [first + t for t, token in enumerate(trace.token_ids[:-1]) if token in words]
    for layer, (name, share) in enumerate(shares.items()):
        pattern = cache[name][0, :, first - 1 : -1][:, :, places].sum(-1).mean(0)
        np.testing.assert_allclose(share, pattern, rtol=1e-9, atol=1e-12)
        assert np.allclose(share, plain[name]) == (layer == 0)
