from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.traces.text_pieces import length_in, text_pieces, text_words
from mi_lens.traces.trace import Trace


def test_pieces_are_letters_digits_and_marks():
    assert text_pieces("Let's try 12,\n x_1") == [
        *("Let", "'", "s", "try", "1", "2", ",", "x", "_", "1")
    ]
    assert text_pieces("<think>\nHmm</think> So") == ["Hmm", "So"]
    assert text_pieces("naïve × x²₁½") == ["naïve", "×", "x", "²", "₁", "½"]


@given(st.text())
def test_nothing_but_blanks_and_tags_is_lost(text):
    bare = text.replace("<think>", "").replace("</think>", "")
    assert "".join(text_pieces(text)) == "".join(bare.split())


@given(st.lists(st.text()))
def test_pieces_of_a_text_are_those_of_its_lines(lines):
    assert text_pieces("\n".join(lines)) == [p for line in lines for p in text_pieces(line)]


def test_words_are_case_folded(tokenizer):
    text = "So, so! SO 2 so-called Let's"
    trace = Trace.from_text(None, "Why?", text)
    assert text_words(trace) == Counter({"so": 4, "called": 1, "let": 1, "s": 1})
    assert length_in("text pieces", trace) == 12
    tokens = trace.tokenized(tokenizer)
    assert length_in("tokens", tokens) == len(tokens.token_ids)
    with pytest.raises(ValueError, match="has no text pieces"):
        length_in("text pieces", Trace.from_text(None, "Why?", "\n"))
    with pytest.raises(ValueError, match="text alone"):
        length_in("tokens", trace)
