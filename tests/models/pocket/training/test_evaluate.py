from collections import Counter

from mi_lens.models.pocket.training.decoding import Reply
from mi_lens.models.pocket.training.evaluate import (
    adopted,
    boxed,
    checked_product,
    describe,
    draw_controls,
    first_answer_before_check,
    first_guess,
    rate,
    words_of,
)
from mi_lens.models.pocket.training.wording import REFLECTION_WORDS
from mi_lens.problems.arithmetic import Exercise, Term

EXERCISE = Exercise((Term(1, (89, 79)), Term(-1, (6412,))), "hard", "What is 89 * 79 - 6412?")
OPENING = "Okay, we need 89*79 - 6412.\n\n89*79 is about 6891."
CHECK = "Wait. 89*79 = 89*70 + 89*9 = 6230 + 801 = 7031. So it is 7031, not 6891."
RIGHT = "Then 7031 - 6412 = 631 - 12 = 619.\n\nSo we get 619."
WRONG = "Then 6891 - 6412 = 491 - 12 = 479.\n\nSo we get 479."


def reply(*thoughts: str, answer: int) -> Reply:
    text = "\n\n".join((OPENING, *thoughts)) + f"\n</think>\n\nWe get \\boxed{{{answer}}}."
    return Reply(text, ("So", "Ġwe", "Ġget", "6", "</think>", "We"), finished=True)


def test_a_check_at_once_is_read() -> None:
    early = reply(CHECK, RIGHT, answer=619)
    assert first_guess(EXERCISE, early) == 6891
    assert checked_product(EXERCISE, early) == 7031
    assert adopted(EXERCISE, early)
    assert first_answer_before_check(EXERCISE, early) is None
    assert boxed(early.text) == 619


def test_a_check_of_a_first_answer_is_read() -> None:
    late = reply(WRONG, CHECK, RIGHT, answer=619)
    assert first_answer_before_check(EXERCISE, late) == 479
    assert adopted(EXERCISE, late)


def test_a_correction_may_be_ignored() -> None:
    ignored = reply(CHECK, WRONG, answer=479)
    assert checked_product(EXERCISE, ignored) == 7031
    assert not adopted(EXERCISE, ignored)


def test_a_trace_without_a_check_is_read() -> None:
    plain = reply(WRONG, answer=479)
    assert checked_product(EXERCISE, plain) is None
    assert first_answer_before_check(EXERCISE, plain) is None


def test_the_description_counts_what_happened() -> None:
    replies = [
        reply(CHECK, RIGHT, answer=619),
        reply(WRONG, CHECK, RIGHT, answer=619),
        reply(WRONG, answer=479),
    ]
    measured = describe([EXERCISE] * 3, replies)
    assert measured["accuracy"]["hard"]["hits"] == 2
    assert measured["wrong_guess_checked"]["hits"] == 2
    assert measured["correction_adopted"]["of"] == 2
    assert measured["first_answer_then_check"]["wrong_to_right"]["of"] == 1
    assert measured["with_reflection"]["hits"] == 2


def test_words_are_counted_inside_the_think_block_only() -> None:
    assert words_of(reply(WRONG, answer=479)) == ["so", "we", "get"]


def test_controls_are_as_frequent_as_the_words_they_stand_for() -> None:
    counts = Counter({word.lower(): 100 for word in REFLECTION_WORDS})
    counts |= {f"near{i}": 90 + i for i in range(20)}
    counts |= {f"rare{i}": 2 for i in range(20)}
    for seed in range(10):
        chosen = draw_controls(counts, seed)
        assert len(set(chosen)) == len(REFLECTION_WORDS)
        assert all(word.startswith("near") for word in chosen)
    assert draw_controls(counts, 0) == draw_controls(counts, 0)
    assert len({tuple(draw_controls(counts, seed)) for seed in range(10)}) > 5


def test_a_share_lies_in_its_interval() -> None:
    measured = rate([True] * 9 + [False])
    assert measured["low"] < measured["share"] == 0.9 < measured["high"]
    assert rate([]) == {"hits": 0, "of": 0}
