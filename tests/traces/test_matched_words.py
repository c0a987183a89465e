from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.problems.problem import Problem
from mi_lens.traces.matched_words import (
    as_frequent,
    count_tokens,
    count_words,
    draw_matches,
    is_ordinary,
)
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary, word_of


def test_counts_are_over_all_traces_and_surface_forms(tokenizer):
    problem = Problem("p", "What is 2?", "2")
    texts = (" So let me see, so 84.", " so is it 84")
    traces = [Trace.from_text(tokenizer, problem, text) for text in texts]
    written = [token for trace in traces for token in trace.token_ids]
    assert count_tokens(traces) == Counter(written)
    strings = vocabulary(tokenizer)
    words = [word_of(strings[token]) for token in written]
    assert count_words(tokenizer, traces) == Counter(words)
    assert list(count_words(tokenizer, traces)) == list(dict.fromkeys(words))
    assert count_words(tokenizer, traces)["so"] == 3


@pytest.mark.parametrize(
    ("string", "anything", "no_digit", "nothing"),
    [
        ("let", True, True, True),
        ("don't", True, True, False),
        ("x2", True, False, False),
        ("½x", True, True, False),
        ("42", False, False, False),
        ("", False, False, False),
    ],
)
def test_what_may_stand_beside_letters(string, anything, no_digit, nothing):
    assert is_ordinary(string, letters=1, beside="anything") == anything
    assert is_ordinary(string, letters=1, beside="no digit") == no_digit
    assert is_ordinary(string, letters=1, beside="nothing") == nothing
    letters = sum(map(str.isalpha, string))
    assert not is_ordinary(string, letters=letters + 1, beside="anything")


def test_half_to_twice_as_often_ends_included():
    counts = {"a": 6, "b": 3, "c": 12, "d": 2, "e": 13}
    assert as_frequent("a", "ebcd", counts) == ["b", "c"]
    assert as_frequent("unwritten", "abc", counts) == []


def _apart(counts, name, other) -> float:
    return abs(log(counts[other] / counts[name]))


@given(
    st.dictionaries(st.integers(0, 40), st.integers(1, 30), min_size=6),
    st.integers(0, 3),
    st.booleans(),
)
def test_matches_are_near_and_drawn_once(counts, seed, within):
    names = sorted(counts)[:3]
    candidates = sorted(counts)[3:]
    rng = np.random.default_rng(seed)
    matches = draw_matches(names, candidates, counts, rng, log=log, within_factor_of_two=within)
    assert set(matches.values()) <= set(candidates)
    assert len(set(matches.values())) == len(matches)
    assert within or set(matches) == set(names)
    left = set(candidates)
    for name in sorted(names, key=lambda n: (-counts[n], n)):
        if name not in matches:
            assert not as_frequent(name, left, counts)
            continue
        apart = _apart(counts, name, matches[name]) - 1e-9
        nearer = [other for other in left if _apart(counts, name, other) < apart]
        assert len(nearer) < 5
        assert not within or matches[name] in as_frequent(name, left, counts)
        left.remove(matches[name])


def test_a_further_distance_is_added_to_that_of_the_counts():
    counts = dict.fromkeys("abcdefgh", 4)
    near = set("bdfgh")

    def distance(name, other):
        return 0.0 if other in near else 3.0

    drawn = {
        draw_matches(
            "a", "bcdefgh", counts, np.random.default_rng(seed), log=np.log2, distance=distance
        )["a"]
        for seed in range(60)
    }
    assert drawn == near
