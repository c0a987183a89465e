"""A summary over traces of the controls at one hook name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.information.per_trace.controls import others_needed
from mi_lens.information.per_trace.covariates import correlates
from mi_lens.information.per_trace.measurement import Measurement, Trajectory
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks
from mi_lens.information.per_trace.remaining import Remaining, remaining


@dataclass(frozen=True)
class MismatchSummary:
    """The gold answer compared with other problems' answers; means over traces.

    Attributes:
        others: The number of other answers; the smallest if it differs between traces.
        mi: Mean MI with other problems' answers.
        specific: Mean specific part, in standard deviations over the other answers.
        peaks: Number of significant peaks of the specific part per trace (family-wise, .05). None
            if a trace had too few other answers for any peak to be significant.
        shared: Number of these peaks per trace that are also raw peaks, or None as above.
        chance: Number of significant peaks per trace that another problem's answer has in the
            place of the gold one (`Calibration.chance_peaks`). None where a trace does not tell.
        excess: `peaks` less `chance`, with its interval over traces; None as `chance`.
        shared_excess: `shared` less what such another answer has by chance; None as `chance`.
        correlates: Rank correlation of the specific part with each covariate.
    """

    others: int
    mi: float
    specific: Estimate
    peaks: float | None
    shared: float | None
    chance: float | None
    excess: Estimate | None
    shared_excess: Estimate | None
    correlates: dict[str, Estimate]

    @property
    def unknown(self) -> str:
        """Why the number of specific peaks is unknown, and what it takes; empty if it is known."""
        if self.peaks is not None:
            return ""
        return f"unknown: {self.others} other answers, and it takes {others_needed()}"


@dataclass(frozen=True)
class Variant:
    """A treatment compared with the trajectory as published; means over traces.

    Attributes:
        mi: Mean MI under the treatment.
        spearman: Rank correlation over steps with the untreated trajectory. None if it is defined
            for no trace.
        overlap: Number of peaks in both trajectories over the number of peaks in either (Jaccard).
            Traces without any peak do not count. None if no trace has a peak.
    """

    mi: float
    spearman: float | None
    overlap: float | None


@dataclass(frozen=True)
class ControlSummary:
    """The results of the controls at one hook name; means over traces.

    Attributes:
        traces: Number of traces.
        mi: Mean MI with the trace's own gold answer.
        peaks: Number of raw peaks per trace.
        mismatch: The comparison with other problems' answers. None if a trace had fewer than two
            other answers.
        massive: Number of massive coordinates.
        correlates: Rank correlation of the trajectory with each covariate.
        remaining: What remains of the trajectory when each covariate is held.
        variants: The result of every other treatment, by the treatment's name.
    """

    traces: int
    mi: float
    peaks: float
    mismatch: MismatchSummary | None
    massive: float
    correlates: dict[str, Estimate]
    remaining: dict[str, Remaining]
    variants: dict[str, Variant]

    def _repr_html_(self) -> str:
        rows: list[tuple[Any, ...]] = [("as published", self.mi, 1.0, 1.0)]
        if self.mismatch is not None:
            rows.append(
                (f"answers of {self.mismatch.others} other problems", self.mismatch.mi, "", "")
            )
        rows += [(name, v.mi, v.spearman, v.overlap) for name, v in self.variants.items()]
        header = ("treatment", "mean MI", "rank correlation", "peaks shared")
        caption = f"{self.traces:,} traces, {self.peaks:.1f} raw peaks per trace"
        treated = table(rows, header, caption)
        goes_with = {f"correlation with {name}": e.text for name, e in self.correlates.items()}
        goes_with |= {
            f"variance left when {name} is held": r.variance.text
            for name, r in self.remaining.items()
        }
        if self.mismatch is None:
            return f"{treated}\n{table(goes_with)}"
        specific = {
            "specific part, standard deviations": self.mismatch.specific.text,
            "specific peaks per trace": self.mismatch.unknown or self.mismatch.peaks,
            "of these also raw peaks": self.mismatch.shared,
            "with another answer in the gold one's place": self.mismatch.chance,
            "beyond this chance": self.mismatch.excess and self.mismatch.excess.text,
        }
        return f"{treated}\n{table(specific | goes_with)}"


def summarize(
    measurements: Sequence[Measurement], *, rule: PeakRule = PAPER_RULE
) -> ControlSummary:
    """Averages the results of the controls over traces.

    Args:
        measurements: One measurement per trace, all at the same hook name.
        rule: As in `find_peaks`.

    Raises:
        ValueError: If there are no measurements.
    """
    if not measurements:
        raise ValueError("no measurements to summarize; expected at least one trace")
    trajectories = [measurement.mi for measurement in measurements]
    explanations = [measurement.covariates for measurement in measurements]
    return ControlSummary(
        traces=len(measurements),
        mi=_mean(mi.mean() for mi in trajectories),
        peaks=_mean(len(find_peaks(mi, rule)) for mi in trajectories),
        mismatch=_mismatch(measurements, rule),
        massive=_mean(measurement.massive for measurement in measurements),
        correlates=correlates(trajectories, explanations),
        remaining=remaining(trajectories, explanations, rule),
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
    calibrations = [m.calibration for m in measurements if m.calibration is not None]
    if len(calibrations) < len(measurements):
        return None
    raw = [set(find_peaks(c.raw, rule).tolist()) for c in calibrations]
    decided = all(c.decides() for c in calibrations)
    specific = [set(c.peaks(rule).tolist()) for c in calibrations] if decided else []
    told = decided and all(c.chance_peaks is not None for c in calibrations)
    chance = [c.chance_peaks or 0.0 for c in calibrations]
    by_chance = [c.chance_shared or 0.0 for c in calibrations]
    shared = [float(len(a & b)) for a, b in zip(raw, specific, strict=False)]
    return MismatchSummary(
        others=min(c.others for c in calibrations),
        mi=_mean(c.mean.mean() for c in calibrations),
        specific=estimate_mean([float(c.specific.mean()) for c in calibrations]),
        peaks=_mean(map(len, specific)) if decided else None,
        shared=_mean(shared) if decided else None,
        chance=_mean(chance) if told else None,
        excess=_excess([float(len(peaks)) for peaks in specific], chance) if told else None,
        shared_excess=_excess(shared, by_chance) if told else None,
        correlates=correlates(
            [c.specific for c in calibrations],
            [measurement.covariates for measurement in measurements],
        ),
    )


def _excess(counts: Sequence[float], chance: Sequence[float]) -> Estimate:
    """Counts of traces less those that chance gives at the same states."""
    return estimate_mean([count - less for count, less in zip(counts, chance, strict=True)])


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
