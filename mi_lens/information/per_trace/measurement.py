"""The measurement of a trace at a hook name: its trajectory and the result of every control."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.information.per_trace.controls import (
    Calibration,
    massive_coordinates,
    mismatched_gold,
    permuted_coordinates,
    sigma_sweep,
    without_massive,
)
from mi_lens.information.per_trace.covariates import covariates
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule

# Factors of sigma. To multiply sigma by f is the same as to multiply the activations by 1 / f.
FACTORS = (0.25, 0.5, 2.0, 4.0)
Trajectory = Float[np.ndarray, "_"]


@dataclass(frozen=True)
class Measurement:
    """The measurement of a trace at a hook name.

    Attributes:
        mi: MI(h_t; h_y), one value per step.
        calibration: The comparison with other problems' answers. None if there are fewer than two
            other answers.
        covariates: Other explanations of a peak, each with one value per step; see `covariates`.
        variants: The trajectory under each other treatment, by the treatment's name: the answer's
            coordinates permuted (mean over permutations); massive coordinates removed; sigma
            multiplied by a factor, which is the same as the activations divided by it.
        massive: Number of massive coordinates.
        endings: MI with the same answer under other endings of its text, by ending.
    """

    mi: Trajectory
    calibration: Calibration | None
    covariates: dict[str, Trajectory]
    variants: dict[str, Trajectory]
    massive: int
    endings: dict[str, Trajectory] = field(default_factory=dict)

    def __repr__(self) -> str:
        low, high = (self.mi.min(), self.mi.max()) if len(self.mi) else (0.0, 0.0)
        others = 0 if self.calibration is None else self.calibration.others
        return (
            f"Measurement({len(self.mi):,} steps, MI {low:.3g} to {high:.3g}, "
            f"{others} other answers, {self.massive} massive coordinates)"
        )


def measure(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    others: Float[Tensor, "other d"],
    next_token: Mapping[str, Trajectory],
    *,
    endings: Mapping[str, Float[Tensor, " d"]] | None = None,
    sigma: float = 50.0,
    rule: PeakRule = PAPER_RULE,
    seed: int = 0,
) -> Measurement:
    """Measures a trace at a hook name: its trajectory and every control.

    Args:
        states: States of the trace.
        answer: The trace's gold answer state.
        others: Answer states of other problems. With fewer than two there is no calibration.
        next_token: What the model expects after every step, as in `covariates`.
        endings: States of the same answer under other endings of its text.
        sigma: Kernel width, in the units of the states.
        rule: As in `find_peaks`, for the peaks that other answers have by chance.
        seed: Seed of the permutations.
    """
    by_sigma = sigma_sweep(states, answer, [factor * sigma for factor in FACTORS])
    return Measurement(
        mi=hsic_mi(states, answer, sigma=sigma).cpu().numpy(),
        calibration=mismatched_gold(states, answer, others, sigma=sigma, rule=rule)
        if len(others) >= 2
        else None,
        covariates=covariates(states, answer, next_token),
        variants={
            "answer permuted": permuted_coordinates(states, answer, sigma=sigma, seed=seed).mean(0),
            "massive removed": without_massive(states, answer, sigma=sigma),
            # A sweep over sigma is also a sweep over the scale of the activations: see scale_sweep.
            **{
                f"sigma x {f:g} (scale x {1 / f:g})": mi
                for f, mi in zip(FACTORS, by_sigma, strict=True)
            },
        },
        massive=int(massive_coordinates(states, answer).sum()),
        endings=_under_endings(states, endings or {}, sigma),
    )


def _under_endings(
    states: Float[Tensor, "step d"], endings: Mapping[str, Float[Tensor, " d"]], sigma: float
) -> dict[str, Trajectory]:
    if not endings:
        return {}
    values = hsic_mi(states, torch.stack(list(endings.values())), sigma=sigma).cpu().numpy()
    return dict(zip(endings, values.T, strict=True))


def measurement_to_row(measurement: Measurement) -> dict[str, Any]:
    """A measurement as a JSON object."""

    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: listed(item) for key, item in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return listed(asdict(measurement))


def measurement_from_row(row: Mapping[str, Any]) -> Measurement:
    """The inverse of `measurement_to_row`."""

    def arrays(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: np.array(value, dtype=float) if isinstance(value, list) else value
            for key, value in values.items()
        }

    calibration = row["calibration"]
    return Measurement(
        mi=np.array(row["mi"], dtype=float),
        calibration=None if calibration is None else Calibration(**arrays(calibration)),
        covariates=arrays(row["covariates"]),
        variants=arrays(row["variants"]),
        massive=row["massive"],
        endings=arrays(row["endings"]),
    )
