import json
from collections import Counter

import numpy as np
import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.information.per_trace.readouts import decode_steps
from mi_lens.information.per_trace.thinking_tokens import (
    _Counts,
    _lift_intervals,
    thinking_tokens,
)
from mi_lens.states.capture import capture
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import SCALING_WORDS, TokenSet, vocabulary, word_of

LAST = "blocks.2.hook_resid_post"


@pytest.mark.parametrize(
    ("string", "word"),
    [
        (" Wait", "wait"),
        ("Wait,", "wait"),
        ("\n\nSo", "so"),
        ("I", "i"),
        (" =", ""),
        ("\n\n", ""),
        ("don't", "don't"),
        ("...Hmm...", "hmm"),
        ("", ""),
        ("É", "é"),
        ("12", "12"),
    ],
)
def test_word_of(string, word):
    assert word_of(string) == word


def test_a_token_set_holds_every_surface_variant(tokenizer):
    chosen = TokenSet.of(tokenizer, ["so", "This"])
    assert list(chosen.words) == ["so", "this"]
    strings = vocabulary(tokenizer)
    written = {strings[token] for token in chosen.words["so"]}
    assert {" so", "So"} <= written
    assert {word_of(s) for s in written} == {"so"}
    assert {i for i, s in enumerate(strings) if word_of(s) in ("so", "this")} == chosen.ids
    assert not chosen.ids & set(tokenizer.all_special_ids)


def test_words_that_are_no_token_are_refused(tokenizer):
    for word in ("extraordinarily", "?!", ""):
        with pytest.raises(ValueError, match="no single token of this tokenizer writes"):
            TokenSet.of(tokenizer, [word])
    assert "Wait" in SCALING_WORDS


@pytest.fixture(scope="module")
def traces(tiny_model):
    """Imported, so that the words are known."""
    texts = ["So so So this = so 1", " this so 1 = = so this this", " so so so so"]
    return [Trace.from_text(tiny_model.tokenizer, f"q{i}", text) for i, text in enumerate(texts)]


def test_counts_by_hand(tiny_model, traces):
    strings = [t.token_strings(tiny_model.tokenizer) for t in traces]
    words = [[word_of(s) for s in row] for row in strings]
    peaks = [[i for i, w in enumerate(row) if w in ("this", "")][:2] for row in words]
    peaks[2] = [0, 1]
    table = thinking_tokens(tiny_model, traces, peaks)
    at_peaks = [words[i][step] for i in range(3) for step in peaks[i]]
    everywhere = [word for row in words for word in row]
    assert table.peaks == len(at_peaks)
    assert table.steps == len(everywhere)
    kept = [w for w in at_peaks if len(w) >= 2]
    assert table.filtered == len(at_peaks) - len(kept)
    assert {row.word.casefold(): row.peak_count for row in table.rows} == {
        word: kept.count(word) for word in kept
    }
    for row in table.rows:
        word = row.word.casefold()
        assert row.step_count == everywhere.count(word)
        assert row.peak_rate == pytest.approx(at_peaks.count(word) / len(at_peaks))
        assert row.step_rate == pytest.approx(everywhere.count(word) / len(everywhere))
        assert row.lift == pytest.approx(row.peak_rate / row.step_rate)
        assert row.lift_low is not None
        assert row.lift_high is not None
        assert row.lift_low <= row.lift <= row.lift_high
        assert sum(row.variants.values()) == row.peak_count
        assert set(row.variants) == {vocabulary(tiny_model.tokenizer)[i] for i in row.token_ids}
    counts = [row.peak_count for row in table.rows]
    assert counts == sorted(counts, reverse=True)


def test_every_step_a_peak_has_a_lift_of_one(tiny_model, traces):
    table = thinking_tokens(tiny_model, traces, [range(len(t)) for t in traces])
    for row in table.rows:
        assert row.lift == row.lift_low == row.lift_high == 1


def test_single_characters_are_kept_on_request(tiny_model, traces):
    everything = [range(len(t)) for t in traces]
    without = {row.word for row in thinking_tokens(tiny_model, traces, everything).rows}
    table = thinking_tokens(tiny_model, traces, everything, min_characters=1)
    assert {row.word for row in table.rows} - without == {"1"}


def test_readouts(tiny_model):
    requests = [Request("Hi", max_new_tokens=9), Request("What is 2?", max_new_tokens=6)]
    traces = generate(tiny_model, requests, progress=False)
    states = [s[LAST] for s in capture(tiny_model, traces, [LAST])]
    for trace, last in zip(traces, states, strict=True):
        # Greedy: the last layer's lens reads what was emitted.
        assert decode_steps(tiny_model, trace, "logit_lens", last) == list(trace.token_ids)
        assert decode_steps(tiny_model, trace, "emitted") == list(trace.token_ids)
        consumed = decode_steps(tiny_model, trace, "consumed")
        assert consumed == [trace.prompt_ids[-1], *trace.token_ids[:-1]]
    peaks = [np.arange(9), range(6)]
    emitted = thinking_tokens(tiny_model, traces, peaks)
    lens = thinking_tokens(tiny_model, traces, peaks, readout="logit_lens", states=states)
    assert lens.rows == emitted.rows


def test_a_single_trace_has_no_interval(tiny_model, traces):
    table = thinking_tokens(tiny_model, traces[2:], [[0, 1]])
    assert [(row.lift_low, row.lift_high) for row in table.rows] == [(None, None)]


def test_a_word_of_one_trace_has_no_interval(tiny_model, traces):
    once, twice = Counter({"indeed": 1, "so": 2}), Counter({"so": 3, "x": 4})
    steps = [once, twice, Counter({"x": 5})]
    counts = _Counts(at_peaks=steps, at_steps=steps)
    low, high = zip(*_lift_intervals(counts, ["indeed", "so"], 0.95, 200, 0), strict=True)
    assert (low[0], high[0]) == (None, None)
    assert low[1] == high[1] == 1


def test_no_peaks(tiny_model, traces):
    table = thinking_tokens(tiny_model, traces, [[], [], []])
    assert (table.peaks, table.filtered, table.rows) == (0, 0, ())


def test_saved_and_used_as_a_set(tiny_model, traces, tmp_path):
    table = thinking_tokens(tiny_model, traces, [range(len(t)) for t in traces])
    table.save(tmp_path / "words.json")
    saved = json.loads((tmp_path / "words.json").read_text())
    assert saved["readout"] == "emitted"
    assert saved["rows"][0]["word"] == table.rows[0].word
    chosen = table.token_set(tiny_model.tokenizer, top=2)
    assert set(table.rows[0].token_ids) <= chosen.ids
    assert len(chosen.words) == 2


def test_bad_input(tiny_model, traces):
    with pytest.raises(ValueError, match="no traces"):
        thinking_tokens(tiny_model, [], [])
    with pytest.raises(ValueError, match="3 traces with 2 lists of peaks and no states"):
        thinking_tokens(tiny_model, traces, [[0], [1]])
    with pytest.raises(ValueError, match=r"has \d+ steps and a peak at 99"):
        thinking_tokens(tiny_model, traces, [[0], [99], []])
    with pytest.raises(ValueError, match=r"a peak at -1"):
        thinking_tokens(tiny_model, traces, [[0], [-1], []])
    short = [torch.zeros(2, 32)] * 3
    with pytest.raises(ValueError, match=r"\(2, 32\) for a trace of \d+ steps"):
        thinking_tokens(tiny_model, traces, [[0], [0], [0]], readout="logit_lens", states=short)
    with pytest.raises(ValueError, match="got none"):
        thinking_tokens(tiny_model, traces, [[0], [0], [0]], readout="logit_lens")
