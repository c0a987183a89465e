from dataclasses import replace

import pytest

from mi_lens.common.intervals import estimate_difference, estimate_share
from mi_lens.evaluation.group_accuracy import compare_accuracy, outcomes_of
from mi_lens.problems.code_tests import CodeTest, CodeTests
from mi_lens.problems.problem import Problem
from mi_lens.traces.trace import Trace


def trace(question, answer="7", *, model="m", seed=0, label=None):
    problem = Problem(question, question, "7")
    text = f"So \\boxed{{{answer}}}"
    return Trace.from_text(None, problem, text, model=model, seed=seed, is_correct=label)


def compared(first, second):
    return compare_accuracy(first, second, outcomes_of(first, second)[1])


def test_labels_of_the_authors_count_where_every_trace_has_one():
    first, second = [trace("a", "8", label=True)], [trace("a", "7", label=False)]
    assert outcomes_of(first, second) == ("author", ([True], [False]))
    # One kind of label for both groups.
    unlabelled = [replace(second[0], is_correct=None)]
    assert outcomes_of(first, unlabelled) == ("grader", ([False], [True]))


def test_programs_are_not_run_and_unknown_without_labels():
    tests = CodeTests((CodeTest("1", "1"),))
    problem = Problem("p", "Write a program", "", tests=tests)
    bare = Trace.from_text(None, problem, "print(1)")
    assert outcomes_of([bare], [trace("a")]) == ("grader", ([None], [True]))
    assert compared([bare], [trace("a")]) is None


def test_shares_are_paired_by_problem():
    first = [trace("a"), trace("b"), trace("b", "8", seed=1), trace("c"), trace("only")]
    second = [trace("a", "8", model="n"), trace("b", model="n"), trace("c", "8", model="n")]
    found = compared(first, second)
    assert found is not None
    assert found.first == estimate_share([1.0, 0.5, 1.0])
    assert found.second == estimate_share([0.0, 1.0, 0.0])
    assert found.difference == estimate_difference([1.0, -0.5, 1.0])
    assert found.pairing.left_out == (1, 0)
    assert found.difference.n == 3


def test_unshared_problems_have_newcombe_s_interval():
    first = [trace(f"a{i}", "7" if i < 56 else "8") for i in range(70)]
    second = [trace(f"b{i}", "7" if i < 48 else "8") for i in range(80)]
    found = compared(first, second)
    assert found is not None
    assert found.pairing.paired_by is None
    # Newcombe 1998, table II, case (a), method 10.
    difference = found.difference
    assert [difference.mean, difference.low, difference.high] == pytest.approx(
        [0.2, 0.0524, 0.3339], abs=5e-5
    )
