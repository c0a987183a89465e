"""Numbers that users pass by accident: each is taken as what it is, or refused by a clear error."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import mi_lens
from mi_lens.common.statistics import estimate_mean, sign_flip
from mi_lens.information.across_problems.error_bounds import entropy_bits
from tests.processes import result_of

GENERATOR = torch.Generator().manual_seed(0)
STATES = torch.randn(40, 8, generator=GENERATOR)
ANSWER = torch.randn(8, generator=GENERATOR)
OTHERS = torch.randn(20, 8, generator=GENERATOR)
LABELS = [i % 4 for i in range(40)]
SERIES = STATES[:, 0]
FUNCTIONS = {
    "hsic_mi": lambda x: mi_lens.hsic_mi(x, ANSWER),
    "independence_test": lambda x: mi_lens.independence_test(x, LABELS, permutations=19).hsic,
    "usable_information": lambda x: mi_lens.usable_information(x, LABELS, shuffles=2).entropy,
    "coordinates": mi_lens.coordinates,
    "find_peaks": lambda x: mi_lens.find_peaks(x[:, 0]),
    "peak_statistics": lambda x: mi_lens.peak_statistics(x[:, 0], [1, 3]).mean,
    "sign_flip": lambda x: sign_flip(x[:, 0]),
    "estimate_mean": lambda x: estimate_mean(x[:, 0]).mean,
    "error_bounds": lambda x: mi_lens.error_bounds(2.0, abs(x[:, 0]), 4).lower,
    "entropy_bits": lambda x: entropy_bits(x[:, 0]),
}


def in_every_form() -> dict[str, dict[str, list[float]]]:
    """What each function makes of the same numbers in other forms; without type checks."""
    forms = {
        "as it is": STATES.double(),
        "bfloat16": STATES.bfloat16(),
        "gradient": STATES.double().clone().requires_grad_(),
        "array": STATES.double().numpy(),
        "transposed": STATES.double().T.contiguous().T,
    }
    return {
        name: {
            form: torch.as_tensor(np.asarray(function(x), dtype=float)).flatten().tolist()
            for form, x in forms.items()
        }
        for name, function in FUNCTIONS.items()
    }


def test_the_form_of_the_numbers_does_not_matter():
    for name, by_form in result_of(in_every_form).items():
        for form, values in by_form.items():
            near = 0.03 if form == "bfloat16" else 1e-9
            assert values == pytest.approx(by_form["as it is"], rel=near, abs=near), (name, form)


def refusals() -> dict[str, str]:
    """The message with which each call is refused."""
    hole = STATES.clone()
    hole[3, 0] = math.nan
    calls = {
        f"{name}, NaN": lambda function=function: function(hole)
        for name, function in FUNCTIONS.items()
        if name != "entropy_bits"  # labels may be anything
    }
    listed: Any = [1.0, 2.0]
    calls |= {
        "massive_coordinates, NaN": lambda: mi_lens.massive_coordinates(hole, ANSWER),
        "mismatched_gold, no steps": lambda: mi_lens.mismatched_gold(STATES[:0], ANSWER, OTHERS),
        "mismatched_gold, widths": lambda: mi_lens.mismatched_gold(STATES, ANSWER, OTHERS[:, :4]),
        "mismatched_gold, list": lambda: mi_lens.mismatched_gold(STATES, ANSWER, listed),
        "hsic_mi, whole numbers": lambda: mi_lens.hsic_mi((10 * STATES).long(), ANSWER),
        "numeric labels, text": lambda: mi_lens.independence_test(
            STATES, ["x = 3", *range(39)], numeric=True
        ),
        "numeric labels, huge": lambda: mi_lens.independence_test(
            STATES, [10**400, *range(39)], numeric=True
        ),
        "numeric labels, 1e200": lambda: mi_lens.independence_test(
            STATES, [1e200, *range(39)], numeric=True
        ),
        "coordinates, equal": lambda: mi_lens.coordinates(torch.ones(5, 3)),
        "coordinates, one": lambda: mi_lens.coordinates(torch.ones(5)),
        "sign_flip, matrix": lambda: sign_flip(STATES),
    }
    told = {}
    for name, call in calls.items():
        try:
            call()
            told[name] = ""
        except (ValueError, TypeError) as error:
            told[name] = str(error)
    return told


def test_what_cannot_be_meant_is_refused():
    told = result_of(refusals)
    parts = {
        "NaN": ("nan", "NaN"),
        "no steps": ("0 steps",),
        "widths": ("8 coordinates",),
        "list": ("expected one trace's states",),
        "whole numbers": ("floating dtype",),
        "text": ("expected numbers: could not convert string to float: 'x = 3'",),
        "huge": ("expected numbers: int too large",),
        "1e200": ("below 1e+150",),
        "equal": ("all 5 states are equal",),
        "one": ("expected (thoughts, d)",),
        "matrix": ("shape (40, 8)",),
    }
    for name, message in told.items():
        assert any(part in message for part in parts[name.rpartition(", ")[2]]), (name, message)


def test_equal_labels_have_no_entropy():
    assert str(entropy_bits([1, 1])) == "0.0"
