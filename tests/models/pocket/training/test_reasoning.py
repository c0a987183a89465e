import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mi_lens.models.pocket.training.reasoning import (
    product_steps,
    sum_steps,
    write_drill,
    write_trace,
)
from mi_lens.models.pocket.training.wording import REFLECTION_WORDS, TRANSITION_WORDS
from mi_lens.problems.arithmetic import Exercise, draw_exercise, show_expression, show_term

seeds = st.integers(0, 2**32)


def draw(seed: int) -> Exercise:
    return draw_exercise(Random(seed), "train")


def boxed(trace: str) -> int:
    return int(re.findall(r"\\boxed\{(\d+)\}", trace)[0])


def equations(text: str) -> list[str]:
    return re.findall(r"\d[\d*+ -]*(?: = \d[\d*+ -]*)+", text)


def is_true(equation: str) -> bool:
    return len({eval(side) for side in equation.split("=")}) == 1


def reflects(trace: str) -> bool:
    return any(re.search(rf"\b{word}\b", trace) for word in REFLECTION_WORDS + TRANSITION_WORDS)


@given(st.integers(0, 9999), st.integers(-9999, 9999))
def test_sums_are_worked_out_truly(x: int, y: int) -> None:
    steps = sum_steps(x, y)
    assert is_true(steps.replace("- -", "+ "))
    assert steps.endswith(f"= {x + y}")


@given(seeds)
def test_products_are_worked_out_truly(seed: int) -> None:
    a, b = draw(seed).terms[0].factors
    assert is_true(product_steps(a, b))
    assert product_steps(a, b).endswith(f"= {a * b}")


@given(seeds)
@settings(max_examples=400)
def test_a_reflecting_trace_concludes_with_the_answer(seed: int) -> None:
    exercise = draw(seed)
    trace = write_trace(exercise, Random(seed))
    thinking, reply = trace.split("\n</think>\n\n")
    product = exercise.terms[0].magnitude
    worked_out = f"= {product}" in thinking
    if worked_out:
        assert boxed(reply) == exercise.answer
    assert int(re.findall(r"\d+", thinking)[-1]) == boxed(reply)
    assert show_expression(exercise.terms, "*") in thinking


@given(seeds)
@settings(max_examples=400)
def test_only_a_slip_that_is_caught_breaks_an_equation(seed: int) -> None:
    exercise = draw(seed)
    trace = write_trace(exercise, Random(seed))
    wrong = [equation for equation in equations(trace) if not is_true(equation)]
    assert len(wrong) <= 1
    if wrong:
        assert re.search(r" = \d+, not \d+\.", trace)
        assert boxed(trace) == exercise.answer


@given(seeds)
def test_a_plain_trace_follows_its_guess(seed: int) -> None:
    exercise = draw(seed)
    trace = write_trace(exercise, Random(seed), reflect=False)
    assert not reflects(trace)
    product = re.escape(show_term(exercise.terms[0], "*"))
    guess = re.search(rf"{product} [A-Za-z ]+ (\d+)\.", trace)
    assert guess
    assert boxed(trace) == int(guess[1]) + sum(t.value for t in exercise.terms[1:])
    assert 0 <= boxed(trace) < 1000
    assert all(map(is_true, equations(trace)))


def test_most_hard_guesses_are_wrong_and_most_are_checked() -> None:
    drawn = [draw(seed) for seed in range(1500)]
    hard = [e for e in drawn if e.level == "hard" and not e.hurried]
    traces = [write_trace(e, Random(i)) for i, e in enumerate(hard)]
    stated = [f"= {e.terms[0].magnitude}" in t for e, t in zip(hard, traces, strict=True)]
    right = [
        bool(re.search(rf"[a-z] {e.terms[0].magnitude}\.", t.split("\n\n")[1]))
        for e, t in zip(hard, traces, strict=True)
    ]
    assert sum(right) / len(hard) < 0.2
    assert sum(stated) / len(hard) > 0.9


def test_every_trace_is_written_from_its_seed() -> None:
    exercise = draw(3)
    assert write_trace(exercise, Random(1)) == write_trace(exercise, Random(1))
    assert len({write_trace(exercise, Random(seed)) for seed in range(20)}) == 20


@given(seeds)
def test_drills_are_true(seed: int) -> None:
    lines = write_drill(Random(seed)).splitlines()
    assert len(lines) == 8
    assert all(map(is_true, lines))
