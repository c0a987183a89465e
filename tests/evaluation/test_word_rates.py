from pathlib import Path

import numpy as np
import pytest

from mi_lens.evaluation.word_rates import compare_words
from mi_lens.runs.config import ImportConfig
from mi_lens.runs.import_text import read_texts
from mi_lens.traces.trace import Trace


def texts(folder: Path, name: str) -> list[Trace]:
    file = folder / "traces" / f"cvenhoff_{name}.jsonl"
    return read_texts(ImportConfig(file=file, out=Path("unused")))


def rate(text: str, word: str) -> float:
    """Another count: by hand, character by character."""
    text = text.replace("<think>", " ").replace("</think>", " ")
    letters = "".join(c if c.isalpha() else " " for c in text)
    others = sum(not c.isspace() and not c.isalpha() for c in text)
    return 1000 * letters.lower().split().count(word) / (len(letters.split()) + others)


def test_rates_of_real_models_are_those_of_another_count(shared_data):
    reasoner = texts(shared_data, "deepseek-r1-distill-llama-8b")
    plain = texts(shared_data, "llama-3.1-8b-instruct")
    words = ("So", "Wait", "Hmm", "Maybe", "Let")
    compared = compare_words(reasoner, plain, words, draws=999)
    assert (compared.unit, compared.pairing.paired_by) == ("text pieces", "problem")
    assert compared.pairing.problems == (45, 45)
    for row in compared.rows:
        expected = [np.mean([rate(t.text, row.word) for t in group]) for group in (reasoner, plain)]
        found = row.per_thousand
        assert [found.first.mean, found.second.mean] == pytest.approx(expected)
        assert found.difference.mean == pytest.approx(expected[0] - expected[1])
    by_word = {row.word: row.per_thousand for row in compared.rows}
    assert by_word["hmm"].second.mean == by_word["maybe"].second.mean == 0
    for word in ("so", "wait", "hmm", "maybe"):
        low = by_word[word].difference.low
        assert by_word[word].p_adjusted <= 0.05
        assert low is not None
        assert low > 0
    again = compare_words(reasoner[::-1], plain, words, draws=999)
    assert [row.word for row in again.rows] == [word.lower() for word in words]
    for row in again.rows:
        assert row.per_thousand.first.mean == pytest.approx(by_word[row.word].first.mean)


def test_a_group_does_not_differ_from_itself(shared_data):
    traces = texts(shared_data, "qwen2.5-14b-instruct")
    compared = compare_words(traces, traces, None, draws=99)
    assert len(compared.rows) > 100
    assert {row.per_thousand.difference.mean for row in compared.rows} == {0}
    assert {row.per_thousand.p_adjusted for row in compared.rows} == {1}


def traces(*texts, tokenizer=None):
    return [Trace.from_text(tokenizer, f"Question {i}", text) for i, text in enumerate(texts)]


def test_every_word_is_compared_where_none_is_given():
    first, second = traces("So x 1", "so y", "now"), traces("Wait", "so", "now then")
    rows = compare_words(first, second, None, minimum_problems=2, draws=99).rows
    assert [row.word for row in rows] == ["so"]
    rows = compare_words(first, second, None, minimum_problems=1, draws=99).rows
    assert {row.word for row in rows} == {"so", "x", "y", "now", "wait", "then"}
    with pytest.raises(ValueError, match="no word stands in traces of 4 of 3 problems"):
        compare_words(first, second, None, minimum_problems=4)


def test_tokens_are_the_unit_where_all_traces_have_them(tokenizer):
    first, second = (traces("So so it is 84", tokenizer=tokenizer) for _ in range(2))
    compared = compare_words(first, second, ["so"], draws=9)
    assert compared.unit == "tokens"
    assert compared.rows[0].per_thousand.first.mean == pytest.approx(2000 / len(first[0]))
    pieces = compare_words(first, second, ["so"], unit="text pieces", draws=9)
    assert pieces.rows[0].per_thousand.first.mean == pytest.approx(2000 / 6)


def test_units_are_not_mixed(tokenizer):
    mixed = traces("So", tokenizer=tokenizer), traces("So")
    with pytest.raises(ValueError, match=r"1 of 2 traces are text alone.*unit='text pieces'"):
        compare_words(*mixed)
    assert compare_words(*mixed, unit="text pieces", draws=9).unit == "text pieces"
    with pytest.raises(ValueError, match="text alone"):
        compare_words(*mixed, unit="tokens")


@pytest.mark.parametrize("words", [(), "Wait", ("but wait",), ("12",), ("",), ("let's",)])
def test_words_that_are_none_are_refused(words):
    with pytest.raises(ValueError, match=r"expected a list of words|not one word of letters"):
        compare_words(traces("So"), traces("So"), words)
