"""What is read from a trace at a hook name: its trajectory, and what every control says of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.information.calibration import (
    Calibration,
    correlates,
    covariates,
    massive_coordinates,
    mismatched_gold,
    permuted_coordinates,
    sigma_sweep,
    without_massive,
)
from mi_lens.information.hsic import hsic_mi
from mi_lens.peaks import find_peaks

FACTORS = (0.25, 0.5, 2.0, 4.0)  # Of sigma; one over these, of the scale of the activations.
Trajectory = Float[np.ndarray, "_"]


@dataclass(frozen=True)
class Reading:
    """A trace at one hook name.

    Attributes:
        mi: MI(h_t; h_y), one value a step.
        calibration: The same beside other problems' answers; None with fewer than two of those.
        covariates: Entropy, surprisal, norm and position, one value a step.
        variants: The trajectory under another treatment, by the treatment's name: the answer's
            coordinates permuted (mean over permutations), massive coordinates removed, sigma
            multiplied (or, which is the same, the activations divided).
        massive: How many coordinates are massive.
    """

    mi: Trajectory
    calibration: Calibration | None
    covariates: dict[str, Trajectory]
    variants: dict[str, Trajectory]
    massive: int


def read(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    others: Float[Tensor, "other d"],
    uncertainty: Mapping[str, Trajectory],
    *,
    sigma: float = 50.0,
    seed: int = 0,
) -> Reading:
    """The trajectory of a trace at one hook name, with every control.

    Args:
        states: States of the trace.
        answer: Its gold answer state.
        others: Answer states of other problems; with fewer than two there is no calibration.
        uncertainty: Entropy and surprisal of every step.
        sigma: Kernel width.
        seed: Of the permutations.
    """
    by_sigma = sigma_sweep(states, answer, [factor * sigma for factor in FACTORS])
    return Reading(
        mi=hsic_mi(states, answer, sigma=sigma).cpu().numpy(),
        calibration=mismatched_gold(states, answer, others, sigma=sigma)
        if len(others) >= 2
        else None,
        covariates=covariates(states, uncertainty),
        variants={
            "answer permuted": permuted_coordinates(states, answer, sigma=sigma, seed=seed).mean(0),
            "massive removed": without_massive(states, answer, sigma=sigma),
            # One sweep is two: see scale_sweep.
            **{
                f"sigma x {f:g} (scale x {1 / f:g})": mi
                for f, mi in zip(FACTORS, by_sigma, strict=True)
            },
        },
        massive=int(massive_coordinates(states, answer).sum()),
    )


def reading_to_row(reading: Reading) -> dict[str, Any]:
    """A reading as a JSON object."""

    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: listed(item) for key, item in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return listed(asdict(reading))


def reading_from_row(row: Mapping[str, Any]) -> Reading:
    """The inverse of `reading_to_row`."""

    def arrays(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: np.array(value, dtype=float) if isinstance(value, list) else value
            for key, value in values.items()
        }

    calibration = row["calibration"]
    return Reading(
        mi=np.array(row["mi"], dtype=float),
        calibration=None if calibration is None else Calibration(**arrays(calibration)),
        covariates=arrays(row["covariates"]),
        variants=arrays(row["variants"]),
        massive=row["massive"],
    )


@dataclass(frozen=True)
class MismatchSummary:
    """The gold answer against other problems' answers; means over traces.

    Attributes:
        others: Fewest other answers that any trace was compared with.
        mi: Mean MI with other problems' answers.
        specific: The mean specific part of a trace, in units of the mismatched spread.
        peaks: Significant peaks of the specific part (family-wise, .05).
        shared: Steps that are such a peak and a raw peak.
        correlates: Rank correlation of the specific part with each covariate.
    """

    others: int
    mi: float
    specific: Estimate
    peaks: float
    shared: float
    correlates: dict[str, Estimate]


@dataclass(frozen=True)
class Variant:
    """A treatment against the trajectory as published; means over traces.

    Attributes:
        mi: Mean MI under the treatment.
        spearman: Rank correlation over steps with the untreated trajectory.
        overlap: Peaks in both over peaks in either (Jaccard); traces without any do not count.
    """

    mi: float
    spearman: float | None
    overlap: float | None


@dataclass(frozen=True)
class ControlSummary:
    """What the controls say of a model at one hook name; means over traces.

    Attributes:
        traces: How many.
        mi: Mean MI with the trace's own gold answer.
        peaks: Raw peaks.
        mismatch: None where a trace had fewer than two other answers.
        massive: Massive coordinates.
        correlates: Rank correlation of the trajectory with each covariate.
        variants: Every other treatment, by its name.
    """

    traces: int
    mi: float
    peaks: float
    mismatch: MismatchSummary | None
    massive: float
    correlates: dict[str, Estimate]
    variants: dict[str, Variant]

    def _repr_html_(self) -> str:
        rows: list[tuple[Any, ...]] = [("as published", self.mi, 1.0, 1.0)]
        if self.mismatch is not None:
            rows.append(
                (f"answers of {self.mismatch.others} other problems", self.mismatch.mi, "", "")
            )
        rows += [(name, v.mi, v.spearman, v.overlap) for name, v in self.variants.items()]
        header = ("treatment", "mean MI", "rank correlation", "peaks shared")
        treated = table(rows, header, f"{self.traces:,} traces, {self.peaks:.1f} raw peaks a trace")
        goes_with = {f"correlation with {name}": e.text for name, e in self.correlates.items()}
        if self.mismatch is None:
            return f"{treated}\n{table(goes_with)}"
        specific = {
            "specific part, standard deviations": self.mismatch.specific.text,
            "specific peaks a trace": self.mismatch.peaks,
            "of them also raw peaks": self.mismatch.shared,
        }
        return f"{treated}\n{table(specific | goes_with)}"


def summarize(readings: Sequence[Reading], *, tau: float = 1.5) -> ControlSummary:
    """Means over traces of what the controls say.

    Args:
        readings: One a trace, all at the same hook name.
        tau: As in `find_peaks`.

    Raises:
        ValueError: If there are none.
    """
    if not readings:
        raise ValueError("no readings to summarize; expected those of at least one trace")
    trajectories = [reading.mi for reading in readings]
    return ControlSummary(
        traces=len(readings),
        mi=_mean(mi.mean() for mi in trajectories),
        peaks=_mean(len(find_peaks(mi, tau)) for mi in trajectories),
        mismatch=_mismatch(readings, tau),
        massive=_mean(reading.massive for reading in readings),
        correlates=correlates(trajectories, [reading.covariates for reading in readings]),
        variants={
            name: _variant(trajectories, [reading.variants[name] for reading in readings], tau)
            for name in readings[0].variants
        },
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _mismatch(readings: Sequence[Reading], tau: float) -> MismatchSummary | None:
    calibrations = [r.calibration for r in readings if r.calibration is not None]
    if len(calibrations) < len(readings):
        return None
    raw = [set(find_peaks(c.raw, tau).tolist()) for c in calibrations]
    specific = [set(c.peaks(tau).tolist()) for c in calibrations]
    return MismatchSummary(
        others=min(c.others for c in calibrations),
        mi=_mean(c.mean.mean() for c in calibrations),
        specific=estimate_mean([float(c.specific.mean()) for c in calibrations]),
        peaks=_mean(map(len, specific)),
        shared=_mean(len(a & b) for a, b in zip(raw, specific, strict=True)),
        correlates=correlates(
            [c.specific for c in calibrations], [reading.covariates for reading in readings]
        ),
    )


def _variant(raw: list[Trajectory], treated: list[Trajectory], tau: float) -> Variant:
    correlations, overlaps = [], []
    for a, b in zip(raw, treated, strict=True):
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            correlations.append(spearman(a, b))
        peaks, others = set(find_peaks(a, tau).tolist()), set(find_peaks(b, tau).tolist())
        if peaks | others:
            overlaps.append(len(peaks & others) / len(peaks | others))
    return Variant(
        mi=_mean(b.mean() for b in treated),
        spearman=_mean(correlations) if correlations else None,
        overlap=_mean(overlaps) if overlaps else None,
    )
