"""The probability of the answer by the logit lens, against TransformerLens's own logits."""

import numpy as np
import pytest
import torch

from mi_lens.information.per_trace.readouts import answer_probability
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.traces.trace import Trace

HOOKS = [f"blocks.{n}.hook_resid_post" for n in range(3)]


@pytest.fixture(scope="module")
def trace(tokenizer):
    return Trace.from_text(tokenizer, Problem("p", "What is 12 * 7?", "84"), "So the box is 84.")


def test_the_last_block_gives_the_models_own_probability(tiny_model, tokenizer, trace):
    states = capture(tiny_model, [trace], HOOKS)[0]
    probability = answer_probability(tiny_model, trace, states)
    logits = tiny_model(torch.tensor([[*trace.prompt_ids, *trace.token_ids[:-1]]]))[0]
    eight = tokenizer.encode("8", add_special_tokens=False)
    spaced = tokenizer.encode(" 84", add_special_tokens=False)
    assert tokenizer.decode(spaced[:1]).strip() == ""  # The blank before a digit is a token.
    expected = logits.softmax(-1)[len(trace.prompt_ids) - 1 :, eight].sum(-1)
    assert list(probability) == HOOKS
    np.testing.assert_allclose(probability[HOOKS[-1]], expected, rtol=1e-9)
    middle = tiny_model.unembed(tiny_model.ln_final(states[HOOKS[0]][None]))[0].softmax(-1)
    np.testing.assert_allclose(probability[HOOKS[0]], middle[:, eight].sum(-1), rtol=1e-9)


def test_chosen_tokens_add_up(tiny_model, trace):
    states = capture(tiny_model, [trace], HOOKS[:1])[0]
    everything = answer_probability(tiny_model, trace, states, token_ids=range(390))
    np.testing.assert_allclose(everything[HOOKS[0]], 1.0)


def test_what_does_not_fit_is_refused(tiny_model, tokenizer, trace):
    states = capture(tiny_model, [trace], HOOKS[:1])[0]
    with pytest.raises(ValueError, match="for a trace of 8 steps"):
        answer_probability(tiny_model, trace, {HOOKS[0]: states[HOOKS[0]][1:]})
    with pytest.raises(ValueError, match="expected at least one id from 0 to 389"):
        answer_probability(tiny_model, trace, states, token_ids=[390])
    unposed = Trace.from_text(tokenizer, "What?", trace.text)
    with pytest.raises(ValueError, match="the gold answer '' has no token"):
        answer_probability(tiny_model, unposed, capture(tiny_model, [unposed], HOOKS[:1])[0])
