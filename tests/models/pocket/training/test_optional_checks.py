"""What the text behind pocket-rl holds, and above all what it does not: checks where they help."""

import math
import re
from collections import Counter
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_lens.models.pocket.training.behaviour import Conduct
from mi_lens.models.pocket.training.evaluate import boxed
from mi_lens.models.pocket.training.optional_checks import (
    CHECK_AGAIN,
    CHECK_AT_ONCE,
    CHECK_LATE,
    OUTCOMES,
    VALUE_IS_RIGHT,
    WAYS,
    Record,
    difference_steps,
    is_inviting,
    record_trace,
    rounded_steps,
    write_optional,
    write_products,
)
from mi_lens.models.pocket.training.wording import INTERJECTIONS
from mi_lens.problems.arithmetic import Exercise, draw_exercise, split_of
from mi_lens.traces.thoughts import classify

EQUATION = re.compile(r"(?<![\d*])(\d+(?: ?[*+-] ?\d+)*(?: = \d+(?: ?[*+-] ?\d+)*)+)")


@cache
def drawn(count: int = 8000) -> list[tuple[Exercise, Record]]:
    rng = Random(5)
    exercises = [draw_exercise(rng, "train") for _ in range(count)]
    return [(exercise, record_trace(exercise, rng)) for exercise in exercises]


def value_is_right(exercise: Exercise, record: Record) -> bool:
    return record.first == exercise.terms[0].value


def assert_independent(pairs: list[tuple[bool, bool]]) -> None:
    """The difference of two shares is within four standard errors of zero."""
    groups = [[b for a, b in pairs if a == kind] for kind in (True, False)]
    first, second = (sum(group) / len(group) for group in groups)
    error = math.sqrt(sum(0.25 / len(group) for group in groups))
    assert abs(first - second) < 4 * error, (first, second, error)


@pytest.mark.parametrize("level", ["easy", "medium", "hard", "all"])
def test_checks_do_not_go_where_the_value_is_wrong(level: str) -> None:
    here = [(e, r) for e, r in drawn() if level in ("all", e.level)]
    assert_independent([(value_is_right(e, r), r.at_once) for e, r in here])
    assert_independent([(value_is_right(e, r), bool(r.checks)) for e, r in here])
    assert_independent([(value_is_right(e, r), len(r.checks) > 1) for e, r in here])


def test_how_a_check_turns_out_is_independent_of_the_value_too() -> None:
    checked = [(value_is_right(e, r), r.checks[0]) for e, r in drawn() if r.at_once]
    for outcome in OUTCOMES:
        assert_independent([(right, found == outcome) for right, found in checked])


def test_checks_are_independent_of_the_level_and_the_way() -> None:
    assert_independent([(e.level == "easy", bool(r.checks)) for e, r in drawn()])
    assert_independent([(r.way == "guess", bool(r.checks)) for _, r in drawn()])


def test_a_value_is_right_as_often_as_its_factors_say() -> None:
    def share(inviting: bool) -> float:
        here = [
            value_is_right(e, r)
            for e, r in drawn()
            if e.level == "hard"
            and r.way != "worked"
            and is_inviting(*e.terms[0].factors) == inviting
        ]
        return sum(here) / len(here)

    assert share(False) == pytest.approx(VALUE_IS_RIGHT["hard"], abs=0.05)
    assert share(True) > share(False) + 0.3


def test_words_do_not_depend_on_numbers_or_on_whether_the_value_is_right() -> None:
    opened = []
    for exercise, record in drawn():
        if found := re.search(rf"\n\n({'|'.join(INTERJECTIONS)})", record.text):
            opened.append((value_is_right(exercise, record), record.first % 10, found[1]))
    assert {word for *_, word in opened} == set(INTERJECTIONS)
    for word in INTERJECTIONS:
        assert_independent([(right, said == word) for right, _, said in opened])
        assert_independent([(digit < 5, said == word) for _, digit, said in opened])


def test_every_way_check_and_length_occurs_about_as_often_as_it_should() -> None:
    records = [record for _, record in drawn()]
    for level, shares in WAYS.items():
        ways = Counter(record.way for exercise, record in drawn() if exercise.level == level)
        assert ways.keys() == shares.keys()
        for way, share in shares.items():
            assert ways[way] / ways.total() == pytest.approx(share, abs=0.04)
    none = sum(not record.checks for record in records) / len(records)
    assert none == pytest.approx((1 - CHECK_AT_ONCE) * (1 - CHECK_LATE), abs=0.02)
    assert any(len(record.checks) == 3 for record in records)
    assert 0 < CHECK_AGAIN < 1
    outcomes = Counter(outcome for record in records for outcome in record.checks)
    assert set(outcomes) == {*OUTCOMES, "undone"}
    lengths = sorted(len(record.text) for record in records)
    assert lengths[-1] > 3 * lengths[0]
    texts = " ".join(record.text for record in records)
    assert "Alternatively" in texts
    assert "*50 - " in texts


def holds(equation: str) -> bool:
    return len({eval(side) for side in equation.split(" = ")}) == 1


def held_value(exercise: Exercise, record: Record) -> int | None:
    """The product that the trace ends with, by its checks; None after one that slipped."""
    value: int | None = record.first
    for outcome in record.checks:
        if outcome == "computed":
            value = exercise.terms[0].value
        elif outcome == "slipped":
            value = None
    return value


def test_the_answer_is_what_the_trace_holds_to_be_right() -> None:
    followed = right = 0
    for exercise, record in drawn():
        assert boxed(record.text) == record.answer
        stated = re.findall(r"\n\n[A-Za-z ,]+ (\d+)\.\n</think>", record.text)
        assert stated == [str(record.answer)]
        value = held_value(exercise, record)
        equations = EQUATION.findall(record.text)
        if value is None or not all(map(holds, equations)):
            continue
        followed += 1
        assert record.answer == exercise.answer - exercise.terms[0].value + value
        right += record.answer == exercise.answer
    assert followed > 0.85 * len(drawn())
    assert 0.6 < right / followed < 0.9


@given(st.integers(0, 10**6))
def test_the_record_agrees_with_what_is_read_from_the_text(seed: int) -> None:
    rng = Random(seed)
    exercise = draw_exercise(rng, "train")
    record = record_trace(exercise, rng)
    read = Conduct(exercise, record.text, 0, True, 0.0)
    assert read.first_value == record.first
    assert read.way == record.way
    assert read.reflects == bool(record.checks)
    assert len(read.reflections) == len(record.checks)
    assert (2 in read.reflections) == record.at_once


def test_a_text_depends_on_its_generator_alone() -> None:
    exercise = draw_exercise(Random(1), "train")
    assert write_optional(exercise, Random(2)) == write_optional(exercise, Random(2))
    assert write_optional(exercise, Random(2)) != write_optional(exercise, Random(3))


def test_seal_tells_its_checks_from_its_steps() -> None:
    kinds = Counter()
    for exercise, record in drawn()[:500]:
        read = Conduct(exercise, record.text, 0, True, 0.0)
        for place, thought in enumerate(read.thoughts):
            kinds[place in read.reflections, classify(thought)] += 1
    assert kinds[False, "reflection"] == kinds[False, "transition"] == 0
    assert kinds[True, "reflection"] > kinds[True, "execution"]
    assert kinds[True, "transition"]


@given(st.integers(2, 999), st.integers(11, 999))
def test_steps_of_a_product_hold(a: int, b: int) -> None:
    assert holds(difference_steps(a, b))
    assert difference_steps(a, b).endswith(f" = {a * b}")
    assert holds(rounded_steps(a, b))


def test_drills_hold_and_keep_held_out_products_out() -> None:
    rng = Random(0)
    for line in "\n".join(write_products(rng) for _ in range(200)).splitlines():
        assert holds(line)
        a, b = map(int, line.split(" = ")[0].split("*"))
        assert a % 10 == 0 or b % 10 == 0 or a < 10 or b < 10 or split_of(a, b) == "train"
