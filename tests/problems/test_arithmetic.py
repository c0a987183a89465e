import math
import re
from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mi_lens.problems.arithmetic import (
    SPLITS,
    answer_entropy,
    draw_exercise,
    exercises,
    pocket_problems,
    show_expression,
    split_of,
)

LEAVING = {"sold", "away", "lost"}


def read_question(question: str) -> int:
    """Work a question out from its text alone."""
    if "There are" not in question:
        expression = re.search(r"\d[\d *+-]*\d", question)
        assert expression
        return eval(expression[0])
    total = 0
    for sentence in re.split(r"[.?]", question):
        numbers = [int(n) for n in re.findall(r"\d+", sentence)]
        if numbers:
            sign = -1 if LEAVING & set(sentence.split()) else 1
            total += sign * math.prod(numbers)
    return total


seeds = st.integers(0, 2**32)


@given(seeds, st.sampled_from(SPLITS))
@settings(max_examples=300)
def test_the_answer_is_what_the_question_asks_for(seed: int, split: str) -> None:
    exercise = draw_exercise(Random(seed), split)
    problem = exercise.as_problem("pocket/x", split)
    assert read_question(problem.question) == int(problem.answer) == exercise.answer
    assert eval(show_expression(exercise.terms)) == exercise.answer
    assert 0 <= exercise.answer < 1000
    assert problem.solution is not None
    assert problem.solution.endswith(f" {problem.answer}.")


@given(seeds, st.sampled_from(SPLITS))
def test_every_step_of_the_solution_is_true_and_stays_in_range(seed: int, split: str) -> None:
    solution = draw_exercise(Random(seed), split).solution
    equations = re.findall(r"([\d *+-]+) = (\d+)", solution)
    assert len(equations) >= 2
    for left, right in equations:
        assert eval(left) == int(right) < 20_000


@given(seeds, st.sampled_from(SPLITS))
def test_the_split_owns_every_product_of_its_problems(seed: int, split: str) -> None:
    exercise = draw_exercise(Random(seed), split)
    products = [term.factors for term in exercise.terms if len(term.factors) == 2]
    assert products
    assert all(split_of(*factors) == split_of(*factors[::-1]) == split for factors in products)
    assert math.prod(products[0]) == max(map(math.prod, products)) or exercise.level == "easy"


def test_splits_share_no_question() -> None:
    questions = [{p.question for p in pocket_problems(1000, split=split)} for split in SPLITS]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]
    assert not questions[1] & questions[2]


def test_answers_are_uniform() -> None:
    counts = Counter(exercise.answer // 10 for exercise in islice(exercises("train"), 8000))
    assert chisquare([counts[tens] for tens in range(100)]).pvalue > 0.001


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_answers_are_uniform_at_each_level(level: str) -> None:
    counts = Counter(int(p.answer) // 50 for p in pocket_problems(1500, levels=[level]))
    assert chisquare([counts[part] for part in range(20)]).pvalue > 0.001


def test_entropy_is_that_of_the_uniform_distribution() -> None:
    assert 2 ** answer_entropy() == pytest.approx(1000)


def test_problems_depend_on_split_seed_and_index_only() -> None:
    assert pocket_problems(30)[:10] == pocket_problems(10)
    assert pocket_problems(10, seed=1) != pocket_problems(10)
    assert [p.id for p in pocket_problems(2, split="train", seed=7)] == [
        "pocket/train/7/0",
        "pocket/train/7/1",
    ]


def test_choosing_levels_keeps_ids() -> None:
    everything = {p.id: p for p in pocket_problems(200)}
    hard = pocket_problems(50, levels=["hard"])
    assert {p.level for p in hard} == {"hard"}
    assert all(everything[p.id] == p for p in hard)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="'dev'"):
        pocket_problems(1, split="dev")
    with pytest.raises(ValueError, match="brutal"):
        pocket_problems(1, levels=["brutal"])
    with pytest.raises(ValueError, match="-1"):
        pocket_problems(-1)
