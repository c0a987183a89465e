import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mi_lens.states.attention_to_words
from mi_lens.problems.problem import Problem
from mi_lens.states.attention_to_words import (
    Match,
    _compare,
    _match,
    attention_paid,
    attention_to_words,
)
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary, word_of

TEXTS = [
    "So let me see that again. that is so, and the final is that. So the box is this.",
    " the box is 84. So that was it, so let me see; the final that is 84, again this is that",
    " this is the final. that is the box, so that is 84 and so the box is again that, now this is",
]
CONTROLS = ["so", "the", "let", "is", "this"]


@pytest.fixture(scope="module")
def traces(tokenizer):
    return [
        Trace.from_text(tokenizer, Problem(str(i), f"What is 12 * 7, {i}?", "84"), text)
        for i, text in enumerate(TEXTS)
    ]


def plain(model, trace, match):
    """From TransformerLens's own cache of whole patterns, reader by reader."""
    ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids[:-1]]])
    _, cache = model.run_with_cache(ids)
    first = len(trace.prompt_ids)
    places = [first + place for place in (match.word, match.before, match.after)]
    readers = range(places[2] + 1, ids.shape[1])
    layers = []
    for layer in range(model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        given = [[pattern[:, r, place] for r in readers] for place in places]
        layers.append(torch.stack([torch.stack(g).mean(0) for g in given]))
    return torch.stack(layers, dim=1)


@pytest.mark.parametrize("readers", [7, 128])
def test_agrees_with_whole_patterns(tiny_model, traces, monkeypatch, readers):
    monkeypatch.setattr(mi_lens.states.attention_to_words, "READERS", readers)
    matched = [
        (traces[0], [Match(5, 3, 9), Match(7, 0, 8)]),
        (traces[1], [Match(6, 4, len(traces[1]) - 3)]),
        (traces[2], [Match(2, 1, 3)]),
    ]
    attention = attention_paid(tiny_model, matched)
    for (trace, matches), paid in zip(matched, attention, strict=True):
        assert paid.shape == (len(matches), 3, 3, 4)
        for match, row in zip(matches, paid, strict=True):
            torch.testing.assert_close(row, plain(tiny_model, trace, match), rtol=1e-9, atol=1e-12)


def test_the_bridge_agrees(tiny_model, tiny_bridge, traces):
    matched = [(traces[0], [Match(5, 3, 9)]), (traces[1], [Match(6, 4, 12)])]
    for ours, theirs in zip(
        attention_paid(tiny_bridge, matched), attention_paid(tiny_model, matched), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_patterns_are_not_kept(tiny_model, traces, monkeypatch):
    """No tensor that comes out has both steps and steps: what passes a hook is reduced there."""
    seen = []

    def add(pattern, hook, **where):
        seen.append(tuple(pattern.shape))
        return original(pattern, hook, **where)

    original = mi_lens.states.attention_to_words._add
    monkeypatch.setattr(mi_lens.states.attention_to_words, "_add", add)
    monkeypatch.setattr(mi_lens.states.attention_to_words, "READERS", 8)
    attention_paid(tiny_model, [(traces[0], [Match(5, 3, 9)])])
    assert max(shape[2] for shape in seen) == 8
    assert len(seen) % 3 == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 8))
@settings(deadline=None)
def test_matches_are_nearest(tokens, reach):
    """Token 0 is of the set, 1 and 2 are its controls."""
    matches = {m.word: m for m in _match(tokens, frozenset({0}), {0: {1, 2}}, reach)}
    controls = [i for i, token in enumerate(tokens[:-2]) if token in (1, 2)]
    for place, token in enumerate(tokens[:-1]):
        before = [i for i in controls if place - reach <= i < place]
        after = [i for i in controls if place < i <= place + reach]
        if token == 0 and before and after:
            assert matches[place] == Match(place, max(before), min(after))
            assert matches[place].after < len(tokens) - 2  # Someone reads behind it.
        else:
            assert place not in matches


def word(model, token):
    return word_of(vocabulary(model.tokenizer)[token])


def test_averages_go_to_problems(tiny_model, traces):
    """Two traces of one problem weigh as one."""
    again = Trace.from_text(tiny_model.tokenizer, traces[0].problem, TEXTS[1])
    chosen_traces = [traces[0], again, traces[2]]
    attention = attention_to_words(tiny_model, chosen_traces, ["that"], controls=CONTROLS)
    ids = {t: word(tiny_model, t) for t in range(384)}
    chosen = {t for t, written in ids.items() if written == "that"}
    controls = {t for t, written in ids.items() if written in CONTROLS}
    per_trace = []
    for trace in chosen_traces:
        matches = _match(trace.token_ids, frozenset(chosen), dict.fromkeys(chosen, controls), 50)
        per_trace.append(np.mean([plain(tiny_model, trace, m).numpy() for m in matches], axis=0))
    means = np.stack([(per_trace[0] + per_trace[1]) / 2, per_trace[2]])
    np.testing.assert_allclose(attention.word, means[:, 0].mean(0), rtol=1e-9)
    np.testing.assert_allclose(attention.control, means[:, 1:].mean((0, 1)), rtol=1e-9)
    np.testing.assert_allclose(attention.ratio, attention.word / attention.control)
    assert attention.overall.mean == pytest.approx(attention.word.mean() / attention.control.mean())
    assert attention.by_layer[1].mean == pytest.approx(
        attention.word[1].mean() / attention.control[1].mean()
    )
    assert attention.overall.n == 2
    assert attention.traces == 3
    assert set(attention.controls) <= set(CONTROLS)
    one_by_one = attention_to_words(
        tiny_model, chosen_traces, ["that"], controls=CONTROLS, batch_size=1
    )
    np.testing.assert_allclose(one_by_one.ratio, attention.ratio, rtol=1e-9)


def test_controls_of_like_frequency(tiny_model, traces):
    attention = attention_to_words(tiny_model, traces, ["that"])
    counts = {}
    for trace in traces:
        for token in trace.token_ids:
            counts[word(tiny_model, token)] = counts.get(word(tiny_model, token), 0) + 1
    for control in attention.controls:
        assert counts["that"] / 2 <= counts[control] <= 2 * counts["that"]
        assert control != "that"
        assert len(control) > 1
    assert attention.matches + attention.left_out == counts["that"]


def test_a_head_that_pays_twice_is_found():
    rng = np.random.default_rng(0)
    control = rng.uniform(0.5, 1.5, (60, 2, 3))
    paid = control * rng.uniform(0.8, 1.2, control.shape)
    paid[:, 1, 2] *= 2
    compared = _compare(paid, control, seed=0)
    assert compared["ratio"][1, 2] == pytest.approx(2, abs=0.1)
    assert compared["p_adjusted"][1, 2] < 0.01
    others = np.delete(compared["p_adjusted"].ravel(), 5)
    assert (others > 0.05).all()
    assert (compared["low"] <= compared["ratio"]).all()
    assert (compared["ratio"] <= compared["high"]).all()


def test_errors(tiny_model, traces, tokenizer):
    with pytest.raises(ValueError, match="is of the words and of their controls"):
        attention_to_words(tiny_model, traces, ["that", "so"], controls=["so"])
    with pytest.raises(ValueError, match="expected 2 or more: give more traces"):
        attention_to_words(tiny_model, traces[:1], ["that"])
    bare = Trace("x", "m", "p", (1,), (2, 3), "t", "eos")
    with pytest.raises(ValueError, match="trace x has no problem"):
        attention_to_words(tiny_model, [bare], ["that"])
