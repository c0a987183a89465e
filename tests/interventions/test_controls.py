from collections import Counter

import numpy as np
import pytest

from mi_lens.interventions.controls import matched_controls
from mi_lens.traces import matched_words
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary, word_of

# Written so often, by word; the last are late in the trace, or uncertain.
TIMES = {"so": 8, "the": 8, "this": 7, "that": 9, "let": 30, "me": 31, "is": 29, "an": 2, "box": 1}


@pytest.fixture
def traces(tokenizer):
    rng = np.random.default_rng(0)
    shuffled = []
    for i in range(6):
        words = [w for w, n in TIMES.items() for _ in range(n)]
        rng.shuffle(words)
        words = [w for w in words if w not in ("this", "me")] + ["this"] * 7 + ["me"] * 31
        ids = [tokenizer.encode(f" {w}", add_special_tokens=False)[0] for w in words]
        shuffled.append(Trace(str(i), "m", "p", (1,), tuple(ids), "", "eos"))
    return shuffled


@pytest.fixture
def entropy(tokenizer, traces):
    strings = vocabulary(tokenizer)
    return [
        np.array(
            [
                3.0 if word_of(strings[t]) in ("so", "that", "let", "is") else 0.5
                for t in trace.token_ids
            ]
        )
        for trace in traces
    ]


def test_frequency(tokenizer, traces):
    draws = matched_controls(tokenizer, traces, ["so", "let"], draws=40)
    for control in draws:
        assert len(set(control.words)) == 2
        assert not {"so", "let"} & set(control.words)
        assert control.matched_emitted == 6 * (TIMES["so"] + TIMES["let"])
        assert control.emitted == 6 * sum(TIMES[w] for w in control.words)
    # "let" has the five candidates nearest to 30, "so" the five nearest to 8 of those left.
    assert {c.words[1] for c in draws} == {"me", "is", "the", "that", "this"}
    assert "box" not in {c.words[0] for c in draws}
    assert draws == matched_controls(tokenizer, traces, ["so", "let"], draws=40)
    assert draws != matched_controls(tokenizer, traces, ["so", "let"], draws=40, seed=1)


def test_entropy_and_position_count_beside_frequency(tokenizer, traces, entropy):
    def nearest(by, **more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matched_words, "NEAREST", 1)
            (control,) = matched_controls(tokenizer, traces, ["so", "let"], by=by, draws=1, **more)
        return control.words

    assert nearest("frequency")[0] == "the"
    assert nearest("entropy", entropy=entropy) == ("that", "is")
    assert nearest("position")[1] == "is"  # "me" is nearer in count, and late


def test_random_words(tokenizer, traces):
    emitted = matched_controls(tokenizer, traces, ["so", "the"], by="emitted", draws=60)
    counts = Counter(w for c in emitted for w in c.words)
    assert set(counts) == set(TIMES) - {"so", "the"}
    anywhere = matched_controls(tokenizer, traces, ["so", "the"], by="vocabulary", draws=60)
    words = {w for c in anywhere for w in c.words}
    assert len(words) > 30
    assert words <= {word_of(s) for s in vocabulary(tokenizer)}
    assert sum(c.emitted for c in anywhere) < sum(c.emitted for c in emitted) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "entropy"}, "entropy is needed"),
        ({"words": ["Zebra"]}, "write none of"),
        ({"words": ["so", "the", "this", "that", "let"]}, "4 words are left to draw 5 controls"),
    ],
)
def test_bad_input(tokenizer, traces, arguments, message):
    with pytest.raises(ValueError, match=message):
        matched_controls(tokenizer, traces, **({"words": ["so"]} | arguments))
