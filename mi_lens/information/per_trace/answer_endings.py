"""Peaks under every ending of the answer's text: are they the answer's, or the ending's?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from mi_lens.common.resampling import percentiles, resample
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks


@dataclass(frozen=True)
class EndingSummary:
    """MI with the same answers under one ending; means over traces.

    Attributes:
        traces: Number of traces whose answer can have the ending.
        mi: Mean MI.
        ratio: Share of the steps that are peaks.
        overlap: Number of peaks both here and under the run's own ending, over the number of peaks
            in either (Jaccard). A trace without any peak does not count.
        thinking: Share of the peaks at which the model writes a thinking word, of all peaks of all
            traces. Its interval comes from resampling traces.
        lift: That share over the share among all steps; 1 if thinking words are as frequent at
            peaks as anywhere.
    """

    traces: int
    mi: float
    ratio: Estimate
    overlap: Estimate
    thinking: Estimate
    lift: Estimate


def compare_endings(
    measurements: Sequence[Measurement],
    thinking: Sequence[Bool[np.ndarray, "_"]],
    rule: PeakRule = PAPER_RULE,
    *,
    seed: int = 0,
) -> dict[str, EndingSummary]:
    """Compares the peaks under each ending of the answer's text with those of the run's own.

    Args:
        measurements: One measurement per trace, all at the same hook name.
        thinking: For every trace, whether each step writes a thinking word.
        rule: The rule that selects peaks.
        seed: Seed of the intervals.

    Returns:
        A mapping from each ending that a trace has to its summary.

    Raises:
        ValueError: If the numbers of traces or of steps differ.
    """
    for trace, (measurement, words) in enumerate(zip(measurements, thinking, strict=True)):
        if len(measurement.mi) != len(words):
            raise ValueError(
                f"trace {trace} has {len(measurement.mi)} steps of MI and {len(words)} words"
            )
    pairs = list(zip(measurements, thinking, strict=True))
    names = dict.fromkeys(name for measurement in measurements for name in measurement.endings)
    return {
        name: _summary([pair for pair in pairs if name in pair[0].endings], name, rule, seed)
        for name in names
    }


def _summary(
    traces: Sequence[tuple[Measurement, np.ndarray]], name: str, rule: PeakRule, seed: int
) -> EndingSummary:
    ratios, overlaps, counts = [], [], []
    for measurement, words in traces:
        peaks = find_peaks(measurement.endings[name], rule)
        own = set(find_peaks(measurement.mi, rule).tolist())
        ratios.append(len(peaks) / len(words))
        if both := own | set(peaks.tolist()):
            overlaps.append(len(own & set(peaks.tolist())) / len(both))
        counts.append((words[peaks].sum(), len(peaks), words.sum(), len(words)))
    share, lift = _share_and_lift(np.array(counts, dtype=float), seed)
    return EndingSummary(
        traces=len(traces),
        mi=float(np.mean([measurement.endings[name].mean() for measurement, _ in traces])),
        ratio=estimate_mean(ratios, seed=seed),
        overlap=estimate_mean(overlaps, seed=seed),
        thinking=share,
        lift=lift,
    )


def _share_and_lift(counts: np.ndarray, seed: int) -> tuple[Estimate, Estimate]:
    """Pooled over traces; each row holds thinking words and steps, at peaks and everywhere."""

    def of(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at_peaks, peaks, everywhere, steps = sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            share = at_peaks / peaks
            return share, share / (everywhere / steps)

    n = len(counts)
    points = of(counts.sum(0, keepdims=True))
    draws = of(resample(n, seed=seed) @ counts)
    return _estimate(points[0], draws[0], n), _estimate(points[1], draws[1], n)


def _estimate(point: np.ndarray, draws: np.ndarray, n: int) -> Estimate:
    if not np.isfinite(point[0]):
        return Estimate(None, None, None, n)
    finite = draws[np.isfinite(draws)]
    if n < 2 or not len(finite):
        return Estimate(float(point[0]), None, None, n)
    return Estimate(float(point[0]), *percentiles(finite, 0.95), n)
