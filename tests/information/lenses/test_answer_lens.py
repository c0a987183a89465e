"""The first tokens of answers by layer and step, against TransformerLens's own logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mi_lens
from mi_lens.information.lenses import answer_lens as module
from mi_lens.information.lenses.answer_lens import answer_lens
from mi_lens.information.lenses.asked_answers import first_token
from mi_lens.information.lenses.tuned_lens import identity_lens
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.problems.problem import Problem
from mi_lens.states.capture import capture
from mi_lens.traces.trace import Trace
from tests.information.lenses.test_training import random_lens

HOOKS = [f"blocks.{n}.hook_resid_post" for n in range(3)]
GOLDS = ("84", "12", "85", "84", "x")


@pytest.fixture(scope="module")
def traces(tokenizer):
    """Traces of five problems; the fourth has the first one's answer."""
    texts = (r"So the box is \boxed{42}.", "It goes on", "The answer is 8", "9", r"\boxed{12}")
    return [
        Trace.from_text(tokenizer, Problem(f"p{i}", f"What is {i}?", gold), text)
        for i, (gold, text) in enumerate(zip(GOLDS, texts, strict=True))
    ]


def expected_of(model, trace, token, lens=None):
    """Probability and rank of a token at every hook name, computed densely."""
    states = capture(model, [trace], HOOKS)[0]
    found = {}
    for hook in HOOKS:
        read = states[hook] if lens is None else lens.translate(hook, states[hook])
        logits = model.unembed(model.ln_final(read[None]))[0]
        order = logits.argsort(-1, descending=True)
        rank = (order == token).nonzero()[:, 1] + 1
        found[hook] = logits.softmax(-1)[:, token].numpy(), rank.numpy()
    return found


def require_reading(reading, expected, *, bridge=False):
    """Equal; a bridge computes the final norm in float32, where ranks may change places."""
    assert list(reading.probability) == list(reading.rank) == HOOKS
    for hook, (probability, rank) in expected.items():
        rtol, places = (1e-4, 1) if bridge else (1e-9, 0)
        np.testing.assert_allclose(reading.probability[hook], probability, rtol=rtol)
        np.testing.assert_allclose(reading.rank[hook], rank, rtol=0, atol=places)


def given(reading):
    """A reading that is there."""
    assert reading is not None
    return reading


@pytest.mark.parametrize("name", ["tiny_model", "tiny_bridge"])
@pytest.mark.parametrize("size", [3, 256])
def test_readings_are_those_of_a_dense_evaluation(
    name, size, request, traces, tiny_model, tokenizer, monkeypatch
):
    monkeypatch.setattr(module, "steps_at_once", lambda model: size)
    reading, *_ = answer_lens(request.getfixturevalue(name), traces)
    eight, four = (tokenizer.encode(d, add_special_tokens=False)[0] for d in "84")
    assert (given(reading.gold).token, given(reading.gold).text) == (eight, "8")
    assert (given(reading.final).answer, given(reading.final).token) == ("42", four)
    for found, token in ((reading.gold, eight), (reading.final, four)):
        expected = expected_of(tiny_model, traces[0], token)
        require_reading(found, expected, bridge=name == "tiny_bridge")


def test_the_last_block_gives_the_models_own_probability(tiny_model, traces):
    reading = answer_lens(tiny_model, traces[:1])[0]
    trace = traces[0]
    logits = tiny_model(torch.tensor([[*trace.prompt_ids, *trace.token_ids[:-1]]]))[0]
    own = logits.softmax(-1)[len(trace.prompt_ids) - 1 :, given(reading.gold).token]
    np.testing.assert_allclose(given(reading.gold).probability[HOOKS[2]], own, rtol=1e-9)


def test_a_lens_that_translates_nothing_is_the_logit_lens(tiny_model, traces):
    identity = identity_lens(tiny_model, model_fingerprint(tiny_model))
    plain, tuned = (answer_lens(tiny_model, traces[:2], lens) for lens in (None, identity))
    assert [(each.lens) for each in (*plain, *tuned)] == ["logit"] * 2 + ["tuned"] * 2
    for one, other in zip(plain, tuned, strict=True):
        for hook in HOOKS:
            np.testing.assert_array_equal(
                given(one.gold).probability[hook], given(other.gold).probability[hook]
            )


def test_a_lens_reads_what_it_translates(tiny_model, traces):
    lens = random_lens(tiny_model, model_fingerprint(tiny_model))
    reading = answer_lens(tiny_model, traces[:1], lens)[0]
    require_reading(
        reading.gold, expected_of(tiny_model, traces[0], given(reading.gold).token, lens)
    )


def test_the_null_is_of_other_problems_with_other_answers(tiny_model, traces, tokenizer):
    reading = answer_lens(tiny_model, traces)[0]
    # Of p1 to p4: 12, 85 and x; 84 is the gold answer itself, and 85 begins like it.
    assert (given(reading.others).answers, given(reading.others).shared) == (3, 1)
    tokens = [tokenizer.encode(a, add_special_tokens=False)[0] for a in ("12", "85", "x")]
    dense = [expected_of(tiny_model, traces[0], token) for token in tokens]
    for hook in HOOKS:
        probabilities, ranks = (np.array([d[hook][kind] for d in dense]) for kind in (0, 1))
        np.testing.assert_allclose(
            given(reading.others).probability[hook], probabilities.mean(0), rtol=1e-6
        )
        np.testing.assert_allclose(given(reading.others).rank[hook], ranks.mean(0))
        reached = (probabilities >= given(reading.gold).probability[hook] - 1e-12).sum(0)
        np.testing.assert_allclose(given(reading.others).p_values[hook], (1 + reached) / 4)


def test_what_a_trace_lacks_is_none(tiny_model, traces, tokenizer):
    unposed = Trace.from_text(tokenizer, "What?", "Nothing is said")
    alone, second = answer_lens(tiny_model, [unposed, traces[1]])
    assert (alone.gold, alone.final, alone.others) == (None, None, None)
    assert "no answer" in repr(alone)
    assert second.final is None
    assert second.others is None  # no other problem has an answer
    assert given(second.gold).token == first_token(tokenizer, "12")


def test_a_first_token_is_not_blank(tokenizer):
    one = tokenizer.encode("1", add_special_tokens=False)[0]
    assert tokenizer.decode(tokenizer.encode(" 12", add_special_tokens=False)[:1]) == " "
    assert first_token(tokenizer, "12", "spaced") == first_token(tokenizer, " 12") == one
    with pytest.raises(ValueError, match=r"the answer '\\n' has no token that is not blank"):
        first_token(tokenizer, "\n")


class Merging:
    """A tokenizer with a token for a brace and a backslash, as Qwen's has one."""

    added_tokens_decoder, all_special_ids, eos_token_id = {}, (), None
    pieces = ("\\boxed", "{", "{\\", "\\", "frac", "}", "1", "2", "▁")

    def __len__(self):
        return len(self.pieces)

    def encode(self, text, add_special_tokens=False):
        ids = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len)
            ids.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return ids

    def batch_decode(self, rows):
        return ["".join(self.pieces[i] for i in row) for row in rows]


def test_after_a_forced_brace_the_answer_begins_with_its_own_token():
    merging = Merging()
    assert merging.pieces[merging.encode(r"\boxed{\frac{1}{2}")[1]] == "{\\"
    assert merging.pieces[first_token(merging, r"\frac{1}{2}")] == "\\"
    assert merging.pieces[first_token(merging, "12")] == "1"


def test_what_does_not_fit_is_refused(tiny_model, traces):
    fingerprint = model_fingerprint(tiny_model)
    lens = random_lens(tiny_model, fingerprint)
    with pytest.raises(ValueError, match=f"model another with model {fingerprint}"):
        answer_lens(tiny_model, traces, replace(lens, model="another"))
    seen = replace(lens, problems={traces[2].problem.key: "p2"})
    with pytest.raises(ValueError, match="1 of 5 problems were used to train the lens"):
        answer_lens(tiny_model, traces, seen)
    assert len(answer_lens(tiny_model, traces[2:3], seen, allow_overlap=True)) == 1
    with pytest.raises(ValueError, match=r"holds 48 numbers per position"):
        answer_lens(tiny_model, traces, hook_names="blocks.0.mlp.hook_post")
    with pytest.raises(ValueError, match="no translator at"):
        answer_lens(tiny_model, traces, lens, hook_names="blocks.0.hook_resid_pre")
    with pytest.raises(ValueError, match="no traces"):
        answer_lens(tiny_model, [])


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_model_in_bfloat16(backend):
    model = mi_lens.load("pocket-reasoner", backend=backend, dtype="bfloat16")
    problems = mi_lens.load_problems("pocket", limit=2)
    traces = mi_lens.generate(model, problems, max_new_tokens=8, progress=False)
    training = mi_lens.LensTraining(updates=1, traces_per_update=1)
    lens = mi_lens.train_lens(model, traces, training)
    assert lens.weight.dtype == torch.float32
    reading = answer_lens(model, traces, lens, allow_overlap=True)[0]
    for hook, probability in given(reading.gold).probability.items():
        assert probability.shape == (len(traces[0]),)
        assert np.isfinite(probability).all()
        assert ((given(reading.gold).rank[hook] >= 1) & (probability <= 1)).all()
