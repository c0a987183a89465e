import numpy as np
import pytest
import torch

from mi_lens.information.across_problems.aligned_steps import AlignedSteps
from mi_lens.information.across_problems.answer_parts import (
    answer_parts,
    correlate_with_trajectory,
    digits_information,
    information_at,
)


def test_parts_of_answers():
    answers = ["79", 8, "-340", "0", "105"]
    assert answer_parts(answers, "whole") == [79, 8, -340, 0, 105]
    assert answer_parts(answers, "first_digit") == [7, 8, 3, 0, 1]
    assert answer_parts(answers, "last_digit") == [9, 8, 0, 0, 5]
    assert answer_parts(answers, "parity") == [1, 0, 0, 0, 1]
    assert answer_parts(range(100, 108), "size") == [0, 0, 1, 1, 2, 2, 3, 3]
    tied = answer_parts([1, 1, 1, 1, 1, 9], "size")
    assert len(set(tied[:5])) == 1


def test_what_is_no_integer_is_refused():
    with pytest.raises(ValueError, match=r"answer '1/2' is not an integer"):
        answer_parts(["3", "1/2"], "parity")


def digits_in_states(answers, known):
    """One-hot digits of the known places, with a little noise."""
    digits = np.array([[int(c) for c in f"{a:03d}"] for a in answers])
    noise = np.random.default_rng(1).standard_normal((len(answers), 30)) * 0.05
    one_hot = np.concatenate([np.eye(10)[digits[:, k]] for k in known], axis=1)
    return torch.from_numpy(one_hot + noise[:, : one_hot.shape[1]])


def test_whole_answers_are_read_that_training_never_saw():
    """Seven values a digit, 343 answers: most of the 150 occur once."""
    rng = np.random.default_rng(0)
    answers = (rng.integers(7, size=(150, 3)) @ [100, 10, 1]).tolist()
    every = digits_information(digits_in_states(answers, (0, 1, 2)), answers, shuffles=2)
    assert every.entropy == pytest.approx(3 * np.log2(7), abs=0.2)
    assert every.bits > 0.8 * every.entropy
    assert every.error < 0.15
    assert len(every.shuffled) == 2
    assert max(every.shuffled) < 0.3
    information = digits_information(digits_in_states(answers, (2,)), answers, shuffles=2)
    assert 2 < information.bits < 3
    assert information.error > 0.9


def test_signs_are_read_and_answers_that_never_vary_are_refused():
    answers = [5, -5] * 20
    information = digits_information(torch.tensor(answers)[:, None].double(), answers, shuffles=0)
    assert information.bits > 0.9
    with pytest.raises(ValueError, match="all 40 labels are 5"):
        digits_information(torch.randn(40, 2), [5] * 40)


def some_traces(n=90, seed=0):
    """Labels of two kinds, and four steps whose states know ever more of them."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    states = [
        torch.from_numpy(
            rng.standard_normal((4, 3)) + np.outer(np.arange(4.0) * (2 * sign - 1), [1, 0, 0])
        )
        for sign in y
    ]
    return states, y.tolist()


def test_information_is_that_of_the_traces_that_have_the_step():
    states, y = some_traces()
    steps = tuple(None if i % 3 == 0 else 3 for i in range(90))
    information = information_at(AlignedSteps("last", steps), states, y, shuffles=3)
    assert information.at.present == tuple(i for i in range(90) if i % 3)
    assert information.usable.problems == 60
    assert information.usable.bits > 0.7
    first = information_at(AlignedSteps("first", (0,) * 90), states, y, shuffles=3)
    assert first.usable.bits < 0.1
    with pytest.raises(ValueError, match="89 labels for 90 traces"):
        information_at(AlignedSteps("first", (0,) * 90), states, y[1:])
    with pytest.raises(ValueError, match="1 groups for 90 traces"):
        information_at(AlignedSteps("first", (0,) * 90), states, y, groups=["a"])


def test_correlation_of_the_two_numbers_over_steps():
    states, y = some_traces()
    informations = [
        information_at(AlignedSteps(f"step {k}", (k,) * 90), states, y, shuffles=0)
        for k in range(4)
    ]
    rng = np.random.default_rng(0)
    rising = [(np.arange(4) + 0.1 * rng.standard_normal(4)).tolist() for _ in y]
    up = correlate_with_trajectory(informations, rising, draws=200)
    assert up.rho == pytest.approx(1)
    assert up.low > 0.5
    assert up.high == pytest.approx(1)
    assert up.trace_mi == pytest.approx(np.mean(rising, axis=0))
    assert up.bits == pytest.approx([i.usable.bits for i in informations])
    down = correlate_with_trajectory(informations, [row[::-1] for row in rising], draws=200)
    assert down.rho == pytest.approx(-1)
    unrelated = rng.standard_normal((90, 4)).tolist()
    wide = correlate_with_trajectory(informations, unrelated, draws=200)
    assert wide.high - wide.low > up.high - up.low


def test_traces_of_one_problem_are_resampled_together():
    """Nine traces of each problem with the same MI: as uncertain as ten traces, not as ninety."""
    states, y = some_traces()
    informations = [
        information_at(AlignedSteps(f"step {k}", (k,) * 90), states, y, shuffles=0)
        for k in range(4)
    ]
    slopes = np.repeat(np.random.default_rng(0).standard_normal(10) + 0.25, 9)
    mi = [(slope * np.arange(4)).tolist() for slope in slopes]
    apart = correlate_with_trajectory(informations, mi, draws=400)
    together = correlate_with_trajectory(
        informations, mi, groups=[i // 9 for i in range(90)], draws=400
    )
    assert apart.rho == together.rho
    assert apart.low > 0.5
    assert together.low < 0


def test_what_does_not_make_a_correlation_is_refused():
    states, y = some_traces(30)
    informations = [
        information_at(AlignedSteps(f"step {k}", (k,) * 30), states, y, shuffles=0)
        for k in range(3)
    ]
    with pytest.raises(ValueError, match="2 aligned steps"):
        correlate_with_trajectory(informations[:2], [[0.0] * 4] * 30)
    with pytest.raises(ValueError, match="29 sequences for 30 traces"):
        correlate_with_trajectory(informations, [[0.0] * 4] * 29)
    with pytest.raises(ValueError, match="the same at all aligned steps"):
        correlate_with_trajectory(informations, [[0.5] * 4] * 30)
