"""Beliefs against whole forward passes: prompt, prefix, question and answer, without a cache."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

import tests.conftest
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.information.across_problems.thought_gains import answer_bits
from mi_lens.information.per_trace.belief import answer_belief, belief_cost, belief_cuts
from mi_lens.information.per_trace.forced_answers import Question
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.steer import Steer
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.loading import load
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace
from tests.conftest import save_checkpoint, train_tokenizer

ASKING = "\n</think>\n\nThe answer is \\boxed{"
TEXTS = (
    "Okay.\n\n12 * 7 is 84.\n\nWait, let me check.\n\nSo 84.\n</think>\n\nIt is \\boxed{84}.",
    "So\n\nAlternatively, 12 * 7 = 87.</think>\\boxed{87}",  # final and gold share a beginning
    "So\n\nAlternatively, swap the factors.",  # no answer
    "Okay </think> \\boxed{7}",  # no thought
    "</think>\\boxed{84}",  # no thinking
)


@pytest.fixture(scope="module")
def traces(tokenizer):
    return [
        Trace.from_text(tokenizer, Problem(str(i), f"What is 12 * 7, {i}?", "84"), text)
        for i, text in enumerate(TEXTS)
    ]


def whole_pass(model, tokens, steered=None):
    """Probabilities at every position, by one pass without a cache."""
    ids = torch.tensor([tokens])
    hooks = []
    if steered is not None:
        name, vector, first, last = steered

        def add(states, hook):
            states = states.clone()
            states[:, first:last] += vector
            return states

        hooks = [(name, add)]
    with torch.inference_mode(), model.hooks(fwd_hooks=hooks):
        logits = backend_of(model).forward(model, ids, torch.ones_like(ids))
    return logits[0].double().softmax(-1).cpu().numpy()


def place_in(probabilities, token):
    """A token's place in the sorted vocabulary."""
    return 1 + sorted(-probabilities).index(-probabilities[token])


def expected(model, trace, cut, answer, steered=None):
    tokenizer = model.tokenizer
    before = [*trace.prompt_ids, *trace.token_ids[:cut]]
    before += tokenizer.encode(ASKING, add_special_tokens=False)
    ids = tokenizer.encode(answer, add_special_tokens=False)
    p = whole_pass(model, [*before, *ids], steered and (*steered, len(trace.prompt_ids) + cut))
    p = p[len(before) - 1 :]
    closings = [i for i in range(len(tokenizer)) if tokenizer.decode([i]).startswith("}")]
    likeliest = max(closings, key=lambda token: p[-1, token])
    ranks = [place_in(p[i], token) for i, token in enumerate([*ids, likeliest])]
    written = np.prod([p[i, token] for i, token in enumerate(ids)])
    return -np.log2(written * p[-1, closings].sum()), max(ranks), ranks[0]


def believed(answer):
    """An answer that is there."""
    assert answer is not None
    return answer


def said(model, trace, cut, tokens):
    ids = [*trace.prompt_ids, *trace.token_ids[:cut]]
    ids += model.tokenizer.encode(ASKING, add_special_tokens=False)
    start = len(ids)
    for _ in range(tokens):
        ids.append(int(whole_pass(model, ids)[-1].argmax()))
        text = model.tokenizer.decode(ids[start:])
        if "}" in text:
            return text.partition("}")[0].strip()
    return None


def check(model, traces, beliefs, steered=None):
    for trace, belief in zip(traces, beliefs, strict=True):
        assert belief.trace == trace.id
        for found in filter(None, (belief.gold, belief.final)):
            rows = zip(found.bits, found.ranks, found.first_ranks, strict=True)
            for cut, row in zip(belief.cuts, rows, strict=True):
                np.testing.assert_allclose(
                    row, expected(model, trace, cut, found.answer, steered), rtol=1e-9
                )
            np.testing.assert_allclose(found.probabilities, [2**-bits for bits in found.bits])


@pytest.mark.parametrize("every", ["boundary", 4])
@pytest.mark.parametrize("backend", ["tiny_model", "tiny_bridge"])
def test_agrees_with_whole_passes(request, traces, backend, every):
    model = request.getfixturevalue(backend)
    if every == 4 and backend == "tiny_bridge":
        traces = traces[1:2]
    beliefs = answer_belief(model, traces, every=every, asking=ASKING, tokens=4)
    check(model, traces, beliefs)
    finals = [belief.final and belief.final.answer for belief in beliefs]
    assert finals == ["84", "87", None, "7", "84"][: len(finals)] if every != 4 else True
    for trace, belief in zip(traces[:2], beliefs, strict=False):
        assert belief.said == tuple(said(model, trace, cut, 4) for cut in belief.cuts)
        assert belief.problem == trace.problem.key


def test_an_answer_that_greedy_decoding_gives_has_rank_one(tiny_model, traces):
    (belief,) = answer_belief(tiny_model, traces[:1], asking=ASKING, closing="e", tokens=64)
    cut = next(i for i, text in enumerate(belief.said) if text)
    gold = replace(traces[0], problem=replace(traces[0].problem, answer=belief.said[cut]))
    path = tiny_model.tokenizer.encode(gold.problem.answer, add_special_tokens=False)
    again = answer_belief(tiny_model, [gold], asking=ASKING, closing="e", tokens=64)[0]
    assert again.said == belief.said
    assert believed(again.gold).ranks[cut] == 1 or len(path) > 1  # its tokens may be others


def test_cuts(tokenizer, traces):
    strings = [trace.token_strings(tokenizer) for trace in traces]
    for trace, of_trace in zip(traces, strings, strict=True):
        *cuts, end = belief_cuts(tokenizer, trace)
        assert cuts[:1] == [0] or end == 0
        assert all("\n\n" in of_trace[cut] for cut in cuts[1:])
        thinking = "".join(of_trace[:end])
        assert thinking == trace.text.partition("</think>")[0].rstrip()
        assert len(cuts) == max(1, thinking.count("\n\n") + 1) or end == 0
        by_three = belief_cuts(tokenizer, trace, 3)
        assert by_three == tuple(sorted({*range(0, end, 3), end}))
    for every in (0, -1, True):
        with pytest.raises(ValueError, match="expected 'boundary' or a number of steps"):
            belief_cuts(tokenizer, traces[0], every)


@pytest.mark.parametrize("backend", ["tiny_model", "tiny_bridge"])
def test_interventions_act_on_the_prefix_alone(request, backend):
    model = request.getfixturevalue(backend)
    name = "blocks.1.hook_resid_post"
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steer = Steer(vector, name, at="all", inside_think=False)
    problem = Problem("a", "What is 12 * 7?", "84")
    asked = Request(problem, Condition((steer,)), max_new_tokens=12)
    traces = generate(model, [asked], progress=False)
    beliefs = answer_belief(model, traces, every=5, asking=ASKING, tokens=1)
    check(model, traces, beliefs, (name, vector, len(traces[0].prompt_ids)))
    plain = answer_belief(model, [replace(traces[0], condition={}, interventions=())], every=5,
                          asking=ASKING, tokens=1)  # fmt: skip
    assert believed(plain[0].gold).bits[0] == believed(beliefs[0].gold).bits[0]
    assert abs(believed(plain[0].gold).bits[-1] - believed(beliefs[0].gold).bits[-1]) > 1e-3


@pytest.mark.parametrize("every", ["boundary", 3])
def test_no_token_of_a_prefix_is_read_twice(tiny_model, traces, every, capsys):
    backend, read = backend_of(tiny_model), []
    whole = backend.step

    def counted(model, tokens, mask, cache, logits_to_keep=None):
        read.append((tokens.shape[1], logits_to_keep))
        return whole(model, tokens, mask, cache, logits_to_keep)

    settings = {"every": every, "asking": ASKING}
    cost = belief_cost(tiny_model, traces, **settings)
    with mock.patch.object(backend, "step", counted):
        answer_belief(tiny_model, traces, **settings, tokens=1)
    assert sum(width for width, kept in read if kept == 0) == cost.prefix_tokens
    assert sum(width for width, kept in read if kept) == cost.forced_tokens
    assert cost.prefix_tokens == sum(
        len(t.prompt_ids) + belief_cuts(tiny_model.tokenizer, t)[-1] for t in traces
    )
    read.clear()
    with mock.patch.object(backend, "step", counted):
        answer_belief(tiny_model, traces, **settings, progress=True)
    further = sum(width for width, kept in read if kept) - cost.forced_tokens
    assert 0 < further <= cost.greedy_tokens
    assert str(cost) in capsys.readouterr().err


def test_gold_bits_are_those_of_thought_gains(tiny_model, traces):
    (belief,) = answer_belief(tiny_model, traces[1:2], asking=ASKING, every=2)
    bits = answer_bits(tiny_model, traces[1], belief.cuts, asking=ASKING)
    assert bits == pytest.approx(believed(belief.gold).bits, rel=1e-12)


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    """A model whose tokenizer writes "{-", "{\\" and "}}" as one token, as Qwen2's does."""
    written = "It is \\boxed{-5}. It is \\boxed{\\frac{1}{2}} or so."
    corpus = (*tests.conftest.CORPUS, *[written] * 9)
    with mock.patch.object(tests.conftest, "CORPUS", corpus):
        tokenizer = train_tokenizer()
    vocabulary = set(tokenizer.get_vocab())
    assert {"{-", "{\\", "}}"} <= vocabulary
    folder = save_checkpoint(tmp_path_factory.mktemp("merging"), "qwen2", tokenizer)
    return load(str(folder), backend="hooked", dtype="float64", device="cpu")


@pytest.mark.parametrize("answer", ["-5", "5", "\\frac{1}{2}"])
def test_tokens_that_hold_both_question_and_answer(merging, answer):
    """The text's probability, over every way to write its ends."""
    tokenizer = merging.tokenizer
    strings = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    trace = Trace.from_text(tokenizer, Problem("a", "What?", answer), "So\n\nit is.")
    (belief,) = answer_belief(merging, [trace], asking=ASKING, tokens=3)
    for place, cut in enumerate(belief.cuts):
        before = [*trace.prompt_ids, *trace.token_ids[:cut]]
        asked = tokenizer.encode(ASKING + answer, add_special_tokens=False)
        brace = next(i for i, t in enumerate(asked) if "boxed" in strings[t]) + 1
        path, stem = asked[brace:], [*before, *asked[:brace]]
        p = whole_pass(merging, [*stem, *path])[len(stem) - 1 :]
        begins = [i for i, string in enumerate(strings) if string.startswith("{")]
        assert len(begins) > 1
        p[0] = np.where(np.isin(np.arange(p.shape[1]), begins), p[0] / p[0, begins].sum(), 0)
        first = np.prod([p[i, token] for i, token in enumerate(path[:-1])])
        ends = [i for i, string in enumerate(strings) if string.startswith("}")]
        both = [i for i, s in enumerate(strings) if s.startswith(strings[path[-1]] + "}")]
        assert bool(both) == (answer[-1] == "}")
        likely = first * (p[-2, path[-1]] * p[-1, ends].sum() + p[-2, both].sum())
        assert believed(belief.gold).bits[place] == pytest.approx(-np.log2(likely), rel=1e-9)
        own = 1 if answer == "5" else 0
        assert believed(belief.gold).first_ranks[place] == place_in(p[own], path[own])


def test_an_answer_ends_outside_of_its_own_braces(merging):
    question = Question.of(merging, ASKING, "}")
    for text, answer in (("\\frac{1}{2}}.", "\\frac{1}{2}"), ("7} or {", "7"), ("{1", None)):
        path = merging.tokenizer.encode(text, add_special_tokens=False)
        begun = merging.tokenizer.encode("{", add_special_tokens=False)
        assert question.answer_in((*begun, *path)) == answer


def test_errors(tiny_model, tokenizer, traces):
    with pytest.raises(ValueError, match="expected the beginning of some token"):
        answer_belief(tiny_model, traces, closing="")
    with pytest.raises(ValueError, match="asking=''"):
        answer_belief(tiny_model, traces, asking="")
    with pytest.raises(ValueError, match="tokens=0: expected at least 1"):
        answer_belief(tiny_model, traces, tokens=0)
    with pytest.raises(ValueError, match="is text alone"):
        answer_belief(tiny_model, [Trace.from_text(None, traces[0].problem, "So 84")])
    long = Trace.from_text(tokenizer, traces[0].problem, "So\n\n" + "12 * 7 = 84 " * 40)
    with pytest.raises(ValueError, match="the model's context 256"):
        belief_cost(tiny_model, [long])
    assert answer_belief(tiny_model, []) == []
    nobody = replace(traces[2], problem=None)
    (belief,) = answer_belief(tiny_model, [nobody])
    assert (belief.gold, belief.final, belief.problem) == (None, None, None)
    assert len(belief.said) == len(belief.cuts)
