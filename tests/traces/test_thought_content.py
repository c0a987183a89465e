from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.traces.thought_content import SameContent, numbers_in, text_distance


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("So 12 * 7 = 84.", ["12", "7", "84"]),
        ("1,200 - 3.50 is about 1,196", ["1200", "3.5", "1196"]),
        ("007 and 7 and 7.0 are one", ["7"]),
        ("-5 and 5 are one", ["5"]),
        ("2x, x2, 3rd and H2O are none", []),
        ("the list 1,2,3", ["1", "2", "3"]),
        ("It ends in 12.", ["12"]),
        ("²³ are no digits, nor is ٣", []),
        ("", []),
    ],
)
def test_numbers(text, numbers):
    assert numbers_in(text) == frozenset(map(Decimal, numbers))


def test_distance_is_one_less_the_cosine_of_counts():
    # (a: 2, b: 1) and (a: 1, c: 2).
    assert text_distance("a b a", "c A c") == pytest.approx(1 - 2 / 5)
    assert text_distance("Wait, 12", "wait , 12") == 0
    assert text_distance("12 + 3", "1 + 23") == pytest.approx(1 - 1 / 3)
    assert text_distance("", "") == text_distance("  ", "") == 0
    assert text_distance("", "a") == 1


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_distance_is_symmetric_and_within_its_range(text, other):
    distance = text_distance(text, other)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(text_distance(other, text))
    assert text_distance(text, text) == 0


def test_same_content_asks_for_numbers_and_for_near_texts():
    same = SameContent(0.5)
    assert same("So it is 84.", "So it is 84")
    assert not same("So it is 84.", "So it is 85.")
    assert not same("So it is 84.", "Alternatively, multiply again: 84!")
    assert SameContent(1.0)("So it is 84.", "Alternatively, multiply again: 84!")
    assert SameContent(0.0)("84", "84")
    # A distance of the user's own, here of lengths.
    lengths = SameContent(2.0, lambda text, other: abs(len(text) - len(other)))
    assert lengths("abc", "xy")
    assert not lengths("abc", "x")
