"""Sets of words by name."""

from typing import Any

import pytest

from mi_lens.interventions.condition import parse_intervention
from mi_lens.interventions.controls import matched_controls
from mi_lens.interventions.extend import Continue
from mi_lens.interventions.suppress import Suppress, evasion
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import NOWAIT, WORD_SETS, TokenSet, as_words, spelled, word_ids


def strings(model, ids):
    return {model.tokenizer.decode([token]) for token in ids}


def test_a_named_set_stands_for_those_of_its_words_that_a_token_writes(tiny_model):
    tokenizer = tiny_model.tokenizer
    written = {tokenizer.decode([token]).strip().casefold() for token in range(len(tokenizer))}
    for name, words in WORD_SETS.items():
        known = [word for word in words if word.casefold() in written]
        assert known
        assert len(known) < len(words)
        assert word_ids(tiny_model, f"@{name}") == word_ids(tiny_model, known)
        assert TokenSet.of(tokenizer, [f"@{name}"]) == TokenSet.of(tokenizer, known)
    both = word_ids(tiny_model, ["@nowait", "So", 7])
    assert both == word_ids(tiny_model, "@nowait") | word_ids(tiny_model, "So") | {7}


def test_nowait_to_the_letter(tiny_model):
    """Every token that contains a keyword in whatever case, but for those that are spared."""
    tokenizer = tiny_model.tokenizer
    every = {tokenizer.decode([token]) for token in range(6, len(tokenizer))}
    for words, parts in (("@nowait", NOWAIT), (["AIN", "Ow"], ("ain", "ow"))):
        ids = word_ids(tiny_model, words, containing=True)
        expected = {string for string in every if any(part in string.casefold() for part in parts)}
        assert strings(tiny_model, ids) == expected
    spared = " again"
    assert expected > {spared, "ain", "gain", "ow", "Now"} - {spared}
    action: Any = Suppress(["ain", "ow"], containing=True, sparing=["Again"]).bind(tiny_model)
    assert strings(tiny_model, action.ids.tolist()) == expected - {spared}
    assert strings(tiny_model, word_ids(tiny_model, ["ow"])) == {"ow"}


def test_named_sets_wherever_words_are_given(tiny_model):
    assert as_words("@nowait") == ("@nowait",)
    assert spelled(["@recycled", "So", 3]) == (*WORD_SETS["recycled"], 3)
    text = "Suppress('@nowait', containing=True, sparing=['Ohio'])"
    assert parse_intervention(text) == Suppress("@nowait", True, ["Ohio"])
    longer: Any = Continue("@scaling").bind(tiny_model)
    assert len(longer.texts) == len(WORD_SETS["scaling"])
    trace = Trace("i", "m", "Hi", (5,), (6,), "But wait, we know that now", "eos")
    assert evasion(tiny_model.tokenizer, [trace], "@nowait").respelled == {"now": 1}
    everywhere = {"but": 1, "wait": 1, "now": 1}
    assert evasion(None, [trace], "@nowait").respelled == everywhere
    ids = tuple(tiny_model.tokenizer.encode("Wait, let me check the product of two numbers again."))
    trace = Trace("i", "m", "Hi", (5,), ids, "", "eos")
    (control,) = matched_controls(
        tiny_model.tokenizer, [trace] * 3, "@nowait", by="vocabulary", draws=1
    )
    assert len(control.words) == len(NOWAIT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Suppress("@nowhere"),
            "'@nowhere': no set of words has this name; expected one of",
        ),
        (lambda: Suppress(["Wait"], sparing=["x"]), "sparing=.* without containing"),
    ],
)
def test_what_no_set_is(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_set_of_which_nothing_is_written(tiny_model, monkeypatch):
    monkeypatch.setitem(WORD_SETS, "odd", ("zebra crossing",))
    with pytest.raises(ValueError, match="no single token of this tokenizer writes a word of '@od"):
        word_ids(tiny_model, "@odd")
    every = [string.strip() for string in strings(tiny_model, range(384)) if "So" in string]
    nothing = Suppress(["So"], containing=True, sparing=every)
    with pytest.raises(ValueError, match=r"contains any of \['So'\], but for those that sparing"):
        nothing.bind(tiny_model)
