import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mi_lens.evaluation.dose_response import dose_conditions, dose_response
from mi_lens.evaluation.evaluate import Evaluation, evaluate
from mi_lens.evaluation.result import Result
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.interventions.suppress import Suppress
from mi_lens.problems.problem import Problem
from mi_lens.report.plots.dose_response import dose_response_figure

HOOK = "blocks.1.hook_resid_post"
VECTOR = [1.0, -2.0, 0.5]


def evaluation_of(conditions, outcome, problems=8, seeds=(0,)):
    """Results by a function of the condition's Steer (None for none), problem and seed."""
    results = []
    for condition in conditions:
        steer = condition.interventions[0] if condition.interventions else None
        for problem in range(problems):
            for seed in seeds:
                correct, tokens = outcome(steer, problem, seed)
                results.append(
                    Result(
                        str(problem), "set", None, condition.name, seed,
                        f"{condition.name} {problem} {seed}", "1", correct, "text", tokens, None,
                        "eos", None,
                    )
                )  # fmt: skip
    described = {condition.name: condition.describe() for condition in conditions}
    return Evaluation(tuple(results), {"max_new_tokens": 99}, described)


def by_hand(steer, problem, seed):
    """The vector takes 10 alpha tokens away; direction k adds k alpha, and problems differ."""
    base = 100 + 3 * problem + seed
    if steer is None:
        return problem < 4, base
    if steer.variant == "random":
        return problem < 4, base + round(steer.alpha * (steer.seed - 2))
    return problem < 4 + steer.alpha, base - round(10 * steer.alpha)


def test_curves_of_known_effects():
    conditions = dose_conditions(VECTOR, [2.0, -1.0], directions=5, hook_name=HOOK)
    assert len(conditions) == 1 + 2 * 6
    response = dose_response(evaluation_of(conditions, by_hand, seeds=(0, 1)))
    assert response.alphas == (-1.0, 2.0)
    assert (response.problems, response.unit) == (8, "vector")
    weaker, stronger = response.tokens
    assert (weaker.vector.mean, stronger.vector.mean) == (10.0, -20.0)
    assert stronger.directions == (-4.0, -2.0, 0.0, 2.0, 4.0)
    assert stronger.random.mean == 0.0
    assert stronger.excess.mean == -20.0
    # Problems do not matter here, so directions alone make the interval: Student's with 4 degrees.
    half = 2.7764 * math.sqrt(np.var(stronger.directions, ddof=1) / 5)
    assert stronger.excess.low == pytest.approx(-20 - half, abs=1e-3)
    assert stronger.between == pytest.approx(np.std(stronger.directions, ddof=1))
    assert (stronger.rank, stronger.p_value) == (0, 1 / 6)
    # Problem 3 is lost at -1; 4 and 5 are gained at 2.
    assert [effect.vector.mean for effect in response.accuracy] == [-1 / 8, 2 / 8]
    assert [effect.rank for effect in response.accuracy] == [0, 0]
    slope = response.slopes["tokens"]
    assert slope.vector.mean == pytest.approx(-10.0)
    assert slope.directions == pytest.approx([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert response.slopes["accuracy"].vector.mean == pytest.approx((1 / 8 + 4 / 8) / 5)
    assert "tokens -10" in repr(response)
    assert "vector less random" in response._repr_html_()


def test_a_vector_like_any_other_has_a_rank_in_the_middle():
    def alike(steer, problem, seed):
        shift = 0 if steer is None else {"random": steer.seed - 9.5}.get(steer.variant, 4.0)
        return True, round(200 + 2 * shift * (0 if steer is None else steer.alpha))

    conditions = dose_conditions(VECTOR, [1.0], directions=20, hook_name=HOOK)
    response = dose_response(evaluation_of(conditions, alike))
    # Effects of directions: -19, -17, ... 19; the vector's is 8: 12 of 20 are as large.
    assert (response.tokens[0].rank, response.tokens[0].p_value) == (12, 13 / 21)
    low, high = response.tokens[0].excess.low, response.tokens[0].excess.high
    assert low is not None
    assert high is not None
    assert low < 8 < high
    # Nothing changes any answer, so every direction ties with the vector.
    assert response.accuracy[0].p_value == 1.0
    assert response.accuracy[0].between == 0.0


def test_under_the_null_p_values_are_uniform():
    """The vector is one more random direction; problems are noisy. P(p <= .25) is about .25."""
    rng = np.random.default_rng(0)
    conditions = dose_conditions(VECTOR, [1.0], directions=7, hook_name=HOOK)
    p_values = []
    for _ in range(120):
        shifts = dict(zip(["add", *range(7)], rng.normal(0, 5, 8), strict=True))

        def null(steer, problem, seed, shifts=shifts):
            if steer is None:
                return True, 500
            key = steer.seed if steer.variant == "random" else "add"
            return True, round(500 + shifts[key] + rng.normal(0, 5))

        p_values.append(dose_response(evaluation_of(conditions, null)).tokens[0].p_value)
    share = np.mean(np.array(p_values) <= 0.25)
    assert abs(share - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 120)


def test_what_is_no_dose_response_is_refused():
    good = dose_conditions(VECTOR, [1.0], directions=2, hook_name=HOOK)
    steered = Condition((Steer(VECTOR, HOOK, 2.0),), name="other")
    for conditions, message in (
        (good[1:], "0 conditions without interventions"),
        ([*good, Condition((), name="again")], "2 conditions without interventions"),
        ([*good, steered], "the same directions at each alpha"),
        ([*good, Condition((Suppress([5]),), name="x")], "'x' is not one Steer"),
        ([*good, replace(steered, interventions=(Steer(VECTOR, HOOK, at="all"),))], "differs in"),
        (good[:-1], "the same directions at each alpha"),
        (good[:1], "the same directions at each alpha"),
    ):
        with pytest.raises(ValueError, match=message):
            dose_response(evaluation_of(conditions, lambda *_: (True, 10)))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"alphas": []}, "different strengths"),
        ({"alphas": [0.0, 1.0]}, "different strengths"),
        ({"alphas": [1.0, 1.0]}, "different strengths"),
        ({"alphas": [1.0], "directions": 1}, "directions=1"),
        ({"alphas": [1.0], "variant": "project"}, "varied here"),
    ]
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            dose_conditions(VECTOR, hook_name=HOOK, **settings)


def test_from_model_to_figure(tiny_model, tmp_path):
    problems = [Problem(f"p{i}", f"What is {i} + 1?", str(i + 1)) for i in range(3)]
    vector = [float(i % 5 - 2) for i in range(32)]
    conditions = dose_conditions(
        vector, [-0.5, 0.5], directions=2, hook_name=HOOK, unit="state", at="all",
        inside_think=False, sampling=Sampling(1.0),
    )  # fmt: skip
    evaluation = evaluate(
        tiny_model, problems, conditions, max_new_tokens=8, folder=tmp_path, progress=False
    )
    response = dose_response(evaluation)
    assert response.unit == "state"
    assert len(response.tokens[0].directions) == 2
    figure = dose_response_figure(response)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["accuracy less no steering (points)", "tokens less no steering"]
    line = figure.axes[1].lines[-2]
    assert np.asarray(line.get_xdata()).tolist() == [-0.5, 0.0, 0.5]
    means = [effect.vector.mean for effect in response.tokens]
    assert np.asarray(line.get_ydata()).tolist() == [means[0], 0.0, means[1]]
