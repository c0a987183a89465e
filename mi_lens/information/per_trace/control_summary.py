"""What the controls say of a model at one hook name, over traces."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.information.per_trace.controls import correlates
from mi_lens.information.per_trace.measurement import Measurement, Trajectory
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks


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


def summarize(
    measurements: Sequence[Measurement], *, rule: PeakRule = PAPER_RULE
) -> ControlSummary:
    """Means over traces of what the controls say.

    Args:
        measurements: One a trace, all at the same hook name.
        rule: As in `find_peaks`.

    Raises:
        ValueError: If there are none.
    """
    if not measurements:
        raise ValueError("no measurements to summarize; expected those of at least one trace")
    trajectories = [measurement.mi for measurement in measurements]
    return ControlSummary(
        traces=len(measurements),
        mi=_mean(mi.mean() for mi in trajectories),
        peaks=_mean(len(find_peaks(mi, rule)) for mi in trajectories),
        mismatch=_mismatch(measurements, rule),
        massive=_mean(measurement.massive for measurement in measurements),
        correlates=correlates(
            trajectories, [measurement.covariates for measurement in measurements]
        ),
        variants={
            name: _variant(
                trajectories, [measurement.variants[name] for measurement in measurements], rule
            )
            for name in measurements[0].variants
        },
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _mismatch(measurements: Sequence[Measurement], rule: PeakRule) -> MismatchSummary | None:
    calibrations = [r.calibration for r in measurements if r.calibration is not None]
    if len(calibrations) < len(measurements):
        return None
    raw = [set(find_peaks(c.raw, rule).tolist()) for c in calibrations]
    specific = [set(c.peaks(rule).tolist()) for c in calibrations]
    return MismatchSummary(
        others=min(c.others for c in calibrations),
        mi=_mean(c.mean.mean() for c in calibrations),
        specific=estimate_mean([float(c.specific.mean()) for c in calibrations]),
        peaks=_mean(map(len, specific)),
        shared=_mean(len(a & b) for a, b in zip(raw, specific, strict=True)),
        correlates=correlates(
            [c.specific for c in calibrations],
            [measurement.covariates for measurement in measurements],
        ),
    )


def _variant(raw: list[Trajectory], treated: list[Trajectory], rule: PeakRule) -> Variant:
    correlations, overlaps = [], []
    for a, b in zip(raw, treated, strict=True):
        correlations.append(spearman(a, b))
        peaks, others = set(find_peaks(a, rule).tolist()), set(find_peaks(b, rule).tolist())
        if peaks | others:
            overlaps.append(len(peaks & others) / len(peaks | others))
    defined = [value for value in correlations if not isnan(value)]
    return Variant(
        mi=_mean(b.mean() for b in treated),
        spearman=_mean(defined) if defined else None,
        overlap=_mean(overlaps) if overlaps else None,
    )
