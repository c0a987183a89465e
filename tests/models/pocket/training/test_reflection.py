"""Counts of when traces reflect, against traces written by hand."""

import pytest

from mi_lens.models.pocket.training.behaviour import Conduct
from mi_lens.models.pocket.training.reflection import (
    by_entropy,
    by_value,
    contrast,
    describe_conduct,
    paired,
)
from mi_lens.problems.arithmetic import Exercise, Term

EXERCISE = Exercise((Term(1, (89, 79)), Term(-1, (6412,))), "hard", "What is 89 * 79 - 6412?")


def trace(value: int, check: str | None, answer: int, entropy: float = 1.0) -> Conduct:
    thoughts = ["Okay.", f"89*79 is about {value}."]
    thoughts += [f"Wait. {check}"] if check is not None else []
    thoughts += [f"Then {value} - 6412 = 1.", f"So we get {answer}."]
    text = "\n\n".join(thoughts) + f"\n</think>\n\nWe get \\boxed{{{answer}}}."
    return Conduct(EXERCISE, text, 40 + 20 * (check is not None), True, entropy)


CHECK = "89*79 = 89*70 + 89*9 = 6230 + 801 = 7031."
TRACES = [
    *[trace(6891, CHECK, 619, entropy=5.0)] * 30,
    *[trace(6891, None, 479, entropy=4.0)] * 10,
    *[trace(7031, "It is 7031 again.", 619, entropy=0.5)] * 5,
    *[trace(7031, None, 619, entropy=0.1)] * 45,
]


def test_reflection_by_the_first_value() -> None:
    found = by_value(TRACES)
    assert found["first"]["mean"] == 0.75
    assert found["second"]["mean"] == 0.1
    assert found["difference"]["mean"] == pytest.approx(0.65)
    assert 0 < found["difference"]["low"] < 0.65 < found["difference"]["high"] < 1


def test_reflection_by_the_entropy_of_the_value() -> None:
    found = by_entropy(TRACES)
    assert found["median_nats"] == 0.3
    assert found["first"]["mean"] == round(35 / 45, 4)
    assert found["first"]["n"] == found["second"]["n"] == 45
    assert found["second"]["mean"] == 0


def test_the_description_counts_what_the_traces_do() -> None:
    found = describe_conduct(TRACES)
    assert found["accuracy"]["all"]["mean"] == round(80 / 90, 4)
    assert found["accuracy"]["hard"]["n"] == 90
    assert found["accuracy"]["easy"]["mean"] is None
    assert found["reflections_that_compute"]["mean"] == round(30 / 35, 4)
    assert found["right_after_wrong_value"]["first"]["mean"] == 1
    assert found["right_after_wrong_value"]["second"]["mean"] == 0
    assert found["right_after_right_value"]["difference"]["mean"] == 0
    assert found["tokens"]["mean"] == round((35 * 60 + 55 * 40) / 90, 1)
    assert found["ways"]["guess"]["mean"] == 1


def test_a_difference_of_independent_traces_has_newcombes_interval() -> None:
    """The example of Newcombe (1998): 56 of 70 against 48 of 80, method 10."""
    found = contrast([True] * 56 + [False] * 14, [True] * 48 + [False] * 32)["difference"]
    assert found == {"mean": 0.2, "low": 0.0524, "high": 0.3339, "n": 150}


def test_a_paired_difference_is_by_problem() -> None:
    found = paired([True, True, True, False] * 10, [True, False, False, False] * 10)
    assert found["difference"]["mean"] == 0.5
    assert found["first"]["mean"] - found["second"]["mean"] == 0.5
    assert found["difference"]["low"] > 0


def test_no_traces_of_a_kind_give_no_numbers() -> None:
    assert by_value([])["difference"]["mean"] is None
    assert by_entropy([])["difference"]["mean"] is None
