"""What traces are compared with where an engine keeps their states, and the numbers of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from mi_lens.information.per_trace.measurement import (
    Measurement,
    Trajectory,
    measurement_from_row,
)
from mi_lens.states.answer_state import AnswerTokens


@dataclass(frozen=True)
class Compared:
    """The answers that a trace is measured against.

    Attributes:
        answer: The trace's gold answer.
        others: Answers of other problems.
        endings: The gold answer under other endings of its text, by ending.
        after: The text after whose last token the model's expectation is compared with that at
            every step; None takes `answer`.
    """

    answer: AnswerTokens
    others: tuple[AnswerTokens, ...] = ()
    endings: Mapping[str, AnswerTokens] = field(default_factory=dict)
    after: AnswerTokens | None = None

    @property
    def all(self) -> list[AnswerTokens]:
        """Every answer once."""
        after = [] if self.after is None else [self.after]
        return list(dict.fromkeys([self.answer, *self.others, *self.endings.values(), *after]))


@dataclass(frozen=True)
class TraceNumbers:
    """Numbers of a trace at hook names.

    Attributes:
        mi: By hook name, MI with every answer, shape (step, answer).
        probability: By hook name, the probability that the logit lens gives to the chosen tokens,
            shape (step,).
    """

    mi: dict[str, Float[np.ndarray, "step answer"]]
    probability: dict[str, Float[np.ndarray, " step"]]


def measurements_of(
    parts: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, Measurement]:
    """Measurements, of what the workers told of every reading of a trace."""
    (explained,) = [part["next_token"] for part in parts if "next_token" in part]
    next_token: dict[str, Trajectory] = {
        what: np.array(values, dtype=float) for what, values in explained.items()
    }
    rows = {name: row for part in parts for name, row in part.get("measured", {}).items()}
    found = {name: measurement_from_row(rows[name]) for name in names}
    return {
        name: replace(measurement, covariates={**next_token, **measurement.covariates})
        for name, measurement in found.items()
    }


def joined(parts: Sequence[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """Arrays by hook name, of what the workers told of every reading of a trace."""
    return {
        name: np.array(values, dtype=float)
        for part in parts
        for name, values in part.get(what, {}).items()
    }
