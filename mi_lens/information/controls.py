"""All controls of one trace at one hook name, and their summary over traces."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from mi_lens.information.calibration import (
    Calibration,
    correlates,
    covariates,
    massive_coordinates,
    mismatched_gold,
    permuted_coordinates,
    scale_sweep,
    sigma_sweep,
    without_massive,
)
from mi_lens.peaks import find_peaks
from mi_lens.statistics import Estimate, estimate_mean

FACTORS = (0.25, 0.5, 2.0, 4.0)  # Of sigma, and of the scale of the activations.
Trajectory = Float[np.ndarray, "_"]


@dataclass(frozen=True)
class Controls:
    """What the controls say of one trace at one hook name.

    Attributes:
        calibration: The trajectory beside those with other problems' answers.
        covariates: Entropy, surprisal, norm and position, one value a step.
        variants: The trajectory under another treatment, by the treatment's name: the answer's
            coordinates permuted (mean over permutations), massive coordinates removed, sigma or
            the activations multiplied.
        massive: How many coordinates are massive.
    """

    calibration: Calibration
    covariates: dict[str, Trajectory]
    variants: dict[str, Trajectory]
    massive: int


def control(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    others: Float[Tensor, "other d"],
    uncertainty: Mapping[str, Trajectory],
    *,
    sigma: float = 50.0,
    seed: int = 0,
) -> Controls:
    """Runs every control of `mi_lens.information.calibration` on one trace.

    Args:
        states: States of the trace at one hook name.
        answer: Its gold answer state there.
        others: Answer states of other problems there, at least two.
        uncertainty: Entropy and surprisal of every step.
        sigma: Kernel width.
        seed: Of the permutations.
    """
    by_sigma = sigma_sweep(states, answer, [factor * sigma for factor in FACTORS])
    by_scale = scale_sweep(states, answer, FACTORS, sigma=sigma)
    return Controls(
        calibration=mismatched_gold(states, answer, others, sigma=sigma),
        covariates=covariates(states, uncertainty),
        variants={
            "answer permuted": permuted_coordinates(states, answer, sigma=sigma, seed=seed).mean(0),
            "massive removed": without_massive(states, answer, sigma=sigma),
            **{f"sigma x {f:g}": mi for f, mi in zip(FACTORS, by_sigma, strict=True)},
            **{f"scale x {f:g}": mi for f, mi in zip(FACTORS, by_scale, strict=True)},
        },
        massive=int(massive_coordinates(states, answer).sum()),
    )


@dataclass(frozen=True)
class Variant:
    """A treatment against the trajectory as published, means over traces.

    Attributes:
        mi: Mean MI under the treatment.
        spearman: Rank correlation over steps with the untreated trajectory.
        overlap: Peaks in both over peaks in either (Jaccard); traces without any peak do not count.
    """

    mi: float
    spearman: float | None
    overlap: float | None


@dataclass(frozen=True)
class ControlSummary:
    """What the controls say of a model at one hook name, over traces.

    Attributes:
        traces: How many.
        others: Fewest other answers any trace was compared with.
        raw: Mean MI with the trace's own gold answer.
        mismatched: Mean MI with other problems' answers.
        specific: Mean over traces of the mean specific part, in units of the mismatched spread.
        raw_peaks: Mean number of peaks of the raw trajectory.
        specific_peaks: Mean number of significant peaks of the specific part (family-wise, .05).
        shared_peaks: Mean number of steps that are both.
        massive: Mean number of massive coordinates.
        correlates: Rank correlation of the raw trajectory with each covariate.
        specific_correlates: The same of the specific part.
        variants: Every other treatment.
    """

    traces: int
    others: int
    raw: float
    mismatched: float
    specific: Estimate
    raw_peaks: float
    specific_peaks: float
    shared_peaks: float
    massive: float
    correlates: dict[str, Estimate]
    specific_correlates: dict[str, Estimate]
    variants: dict[str, Variant]


def controls_to_row(controls: Controls) -> dict[str, Any]:
    """Controls as a JSON object."""

    def listed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: listed(item) for key, item in value.items()}
        return value.tolist() if isinstance(value, np.ndarray) else value

    return listed(asdict(controls))


def controls_from_row(row: Mapping[str, Any]) -> Controls:
    """The inverse of `controls_to_row`."""

    def arrays(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: np.array(value, dtype=float) if isinstance(value, list) else value
            for key, value in values.items()
        }

    return Controls(
        calibration=Calibration(**arrays(row["calibration"])),
        covariates=arrays(row["covariates"]),
        variants=arrays(row["variants"]),
        massive=row["massive"],
    )


def summarize_controls(traces: Sequence[Controls], *, tau: float = 1.5) -> ControlSummary:
    """Means over traces of what the controls say.

    Args:
        traces: One a trace, all at the same hook name.
        tau: As in `find_peaks`.

    Raises:
        ValueError: If there are none.
    """
    if not traces:
        raise ValueError("no controls to summarize; expected those of at least one trace")
    calibrations = [trace.calibration for trace in traces]
    raw_peaks = [set(find_peaks(c.raw, tau).tolist()) for c in calibrations]
    specific_peaks = [set(c.peaks(tau).tolist()) for c in calibrations]
    explanations = [trace.covariates for trace in traces]
    return ControlSummary(
        traces=len(traces),
        others=min(c.others for c in calibrations),
        raw=_mean(c.raw.mean() for c in calibrations),
        mismatched=_mean(c.mean.mean() for c in calibrations),
        specific=estimate_mean([float(c.specific.mean()) for c in calibrations]),
        raw_peaks=_mean(map(len, raw_peaks)),
        specific_peaks=_mean(map(len, specific_peaks)),
        shared_peaks=_mean(len(a & b) for a, b in zip(raw_peaks, specific_peaks, strict=True)),
        massive=_mean(trace.massive for trace in traces),
        correlates=correlates([c.raw for c in calibrations], explanations),
        specific_correlates=correlates([c.specific for c in calibrations], explanations),
        variants={
            name: _variant([c.raw for c in calibrations], [t.variants[name] for t in traces], tau)
            for name in traces[0].variants
        },
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _variant(raw: list[Trajectory], treated: list[Trajectory], tau: float) -> Variant:
    correlations, overlaps = [], []
    for a, b in zip(raw, treated, strict=True):
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            correlations.append(float(spearmanr(a, b).statistic))
        peaks, others = set(find_peaks(a, tau).tolist()), set(find_peaks(b, tau).tolist())
        if peaks | others:
            overlaps.append(len(peaks & others) / len(peaks | others))
    return Variant(
        mi=_mean(b.mean() for b in treated),
        spearman=_mean(correlations) if correlations else None,
        overlap=_mean(overlaps) if overlaps else None,
    )
