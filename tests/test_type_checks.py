"""A call is passed unchecked only if a call like it was checked before."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from tests.type_checks import check

VIOLATIONS = (TypeCheckError, BeartypeCallHintViolation)
calls: list[str] = []


@check
def product(
    a: Float[Tensor, "rows d"], b: Float[Tensor, "d"], times: int = 1
) -> Float[Tensor, "rows"]:
    """a @ b; wrong on purpose if `times` is negative."""
    calls.append("product")
    return (a @ b * times)[: 1 if times < 0 else None]


@check
def first(states: list[Float[Tensor, "_ d"]]) -> Float[Tensor, "d"]:
    return states[0][0]


def test_the_same_call_is_computed_each_time_and_checked_once():
    a, b = torch.ones(3, 2), torch.ones(2)
    calls.clear()
    for scale in (1.0, 2.0):
        assert product(scale * a, b).tolist() == [2 * scale] * 3
    assert len(calls) == 2


@pytest.mark.parametrize("wrong", [
    (torch.ones(3, 2), torch.ones(3)),
    (torch.ones(3, 2, 1), torch.ones(2)),
    (torch.ones(3, 2).int(), torch.ones(2)),
    (torch.ones(3, 2), torch.ones(2), 1.5),
    (torch.ones(3, 2), [1.0, 1.0]),
    (None, torch.ones(2)),
])  # fmt: skip
def test_another_call_is_checked_after_a_right_one(wrong: Any):
    product(torch.ones(3, 2), torch.ones(2))
    with pytest.raises(VIOLATIONS):
        product(*wrong)
    with pytest.raises(VIOLATIONS):  # a call that failed is not taken for one that passed
        product(*wrong)


def test_another_result_is_checked_and_nothing_is_computed_twice():
    @check
    def some(a: Float[Tensor, "rows d"]) -> Float[Tensor, "rows"]:
        computed.append(len(computed))
        return a.sum(1)[: 2 if len(computed) > 1 else None]

    computed: list[int] = []
    some(torch.ones(3, 2))
    with pytest.raises(VIOLATIONS):
        some(torch.ones(3, 2))
    assert computed == [0, 1]


def test_what_lies_in_a_list_is_looked_at_every_time():
    first([torch.ones(3, 2)])
    with pytest.raises(VIOLATIONS):
        first([torch.ones(3)])


@runtime_checkable
class Named(Protocol):
    """What has a name."""

    name: str


class Thing:
    """May have a name."""


def test_a_protocol_is_looked_at_every_time():
    @check
    def scale(named: Named, a: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
        return a

    with_name: Any = Thing()
    with_name.name = "a"
    scale(with_name, torch.ones(2))
    with pytest.raises(VIOLATIONS):
        scale(Thing(), torch.ones(2))  # type: ignore[arg-type]


def test_generators_and_functions_without_shapes_are_checked_too():
    @check
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @check
    def half(n: int) -> float:
        return n / 2 if n else "none"  # type: ignore[return-value]

    assert list(count(2)) == [0, 1]
    assert half(1) == 0.5
    for wrong in (lambda: count("2"), lambda: half("2"), lambda: half(0)):  # type: ignore[arg-type]
        with pytest.raises(VIOLATIONS):
            wrong()


def test_the_package_runs_under_it():
    import mi_lens

    with pytest.raises(VIOLATIONS):
        mi_lens.peak_statistics(torch.ones(8).numpy(), peaks="3")  # type: ignore[arg-type]
    with pytest.raises(VIOLATIONS):
        mi_lens.permuted_coordinates(torch.ones(3, 4, 5), torch.ones(5))
