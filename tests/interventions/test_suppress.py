from dataclasses import replace

import pytest
import torch

from mi_lens.generation.candidates import Candidates
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.suppress import Evasion, LogitPenalty, Suppress, evasion
from mi_lens.interventions.temperature import RaiseTemperature
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import TokenSet, word_ids

PROMPTS = ["What is 12 * 7 - 5?", "Hi", "So let me think. What is 3?"]


def logits_of(model, condition, monkeypatch, steps=6):
    """Logits at every step of one row before and after its interventions."""
    seen = []
    draw = Candidates.draw

    def spy(self, logits, samplings, unchanged, changed, asked):
        seen.extend((logits[0].clone(), unchanged[0].clone()))
        return draw(self, logits, samplings, unchanged, changed, asked)

    with monkeypatch.context() as patch:
        patch.setattr(Candidates, "draw", spy)
        (trace,) = generate(model, PROMPTS[:1], condition, max_new_tokens=steps, progress=False)
    return trace, seen


def test_a_suppressed_word_is_never_written(tiny_model):
    plain = generate(tiny_model, PROMPTS, max_new_tokens=20, progress=False)
    banned = tuple({token for trace in plain for token in trace.token_ids[:3]})
    traces = generate(tiny_model, PROMPTS, Suppress(banned), max_new_tokens=20, progress=False)
    assert not set(banned) & {token for trace in traces for token in trace.token_ids}
    for trace in traces:
        first = next(event for event in trace.events if event["what"] == "logits")
        assert first["step"] == 0
        assert first["wanted"] in banned
        assert first["emitted"] == trace.token_ids[0]
        assert all(e["emitted"] == trace.token_ids[e["step"]] for e in trace.events)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_was_wanted_is_what_the_logits_would_have_given(tiny_model, temperature):
    condition = Condition((Suppress(range(0, 384, 2)),), Sampling(temperature))
    (trace,) = generate(tiny_model, PROMPTS[:1], condition, max_new_tokens=12, progress=False)
    assert trace.events
    for event in trace.events:
        step = event["step"]
        request = Request(
            PROMPTS[0],
            Condition(sampling=Sampling(temperature)),
            max_new_tokens=step + 1,
            prefix=trace.token_ids[:step],
        )
        (free,) = generate(tiny_model, [request], progress=False)
        assert free.token_ids[-1] == event["wanted"] != event["emitted"]
    steps = {event["step"] for event in trace.events}
    assert all(token % 2 for token in trace.token_ids if token < 384)
    assert len(steps) == len(trace.events) < len(trace)


def test_a_penalty_is_added_to_its_words_and_no_others(tiny_model, monkeypatch):
    _, seen = logits_of(tiny_model, LogitPenalty(["so", 5], -3.0), monkeypatch)
    ids = sorted(word_ids(tiny_model, ["so", 5]))
    assert {"So", " so"} <= {tiny_model.tokenizer.decode([i]) for i in ids}
    for changed, raw in zip(seen[::2], seen[1::2], strict=True):
        expected = raw.clone()
        expected[ids] -= 3.0
        assert torch.equal(changed, expected)


def test_words_by_what_they_contain(tiny_model):
    decode = tiny_model.tokenizer.decode
    strings = {decode([i]) for i in word_ids(tiny_model, ["box"], containing=True)}
    assert strings == {"box", " box", " boxes"}
    assert {decode([i]) for i in word_ids(tiny_model, ["box"])} == {"box", " box"}
    token_set = TokenSet.of(tiny_model.tokenizer, ["box"])
    assert word_ids(tiny_model, token_set) == token_set.ids
    assert Suppress(token_set) == Suppress(tuple(sorted(token_set.ids)))


def test_evasion_counts_what_came_instead(tiny_model):
    plain = generate(tiny_model, PROMPTS, max_new_tokens=20, progress=False)
    words = ["the", "is", "an", "in", "re", "ro", "at", "es"]
    ids = word_ids(tiny_model, words)
    traces = generate(tiny_model, PROMPTS, Suppress(words), max_new_tokens=60, progress=False)
    evaded = evasion(tiny_model.tokenizer, traces, words)
    assert evaded.prevented == sum(e["wanted"] in ids for t in traces for e in t.events)
    assert sum(evaded.instead.values()) == evaded.prevented
    assert evasion(tiny_model.tokenizer, plain, words).prevented == 0


def test_evasion_reads_text_alone(tiny_model):
    text = Trace.from_text(None, "Why?", "But wait, so it is. Wait! Waiting")
    assert evasion(None, [text], ["Wait", "hmm"]) == Evasion(0, {}, {"wait": 2})
    with pytest.raises(ValueError, match=r"token ids \[3\] without a tokenizer"):
        evasion(None, [text], [3])
    traces = generate(tiny_model, PROMPTS, Suppress(["the"]), max_new_tokens=60, progress=False)
    with pytest.raises(ValueError, match="has events, whose tokens only a tokenizer can read"):
        evasion(None, [replace(traces[0], events=({"step": 1, "what": "logits"},))], ["the"])


def test_temperature_rises_right_after_a_word(tiny_model, monkeypatch):
    (plain,) = generate(tiny_model, PROMPTS[:1], max_new_tokens=12, progress=False)
    word = plain.token_ids[3]
    first = plain.token_ids.index(word)
    hot = RaiseTemperature([word], 50.0)
    runs = [
        generate(tiny_model, PROMPTS[:1], hot, seed=seed, max_new_tokens=12, progress=False)[0]
        for seed in range(6)
    ]
    assert all(run.token_ids[: first + 1] == plain.token_ids[: first + 1] for run in runs)
    assert len({run.token_ids[first + 1] for run in runs}) > 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: Suppress([]), "no words given"),
        (lambda m: Suppress(["Zebra"]).bind(m), "no single token of this tokenizer writes 'Zebra'"),
        (lambda m: Suppress([390]).bind(m), "token id 390: this vocabulary has 0 to 389"),
        (lambda m: LogitPenalty(["so"], float("-inf")), "penalty=-inf"),
        (lambda m: RaiseTemperature(["so"], -1.0), "temperature=-1.0"),
        (lambda m: generate(m, ["q"], Suppress(range(390)), progress=False), "suppressed"),
    ],
)
def test_bad_input(tiny_model, make, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_model)
