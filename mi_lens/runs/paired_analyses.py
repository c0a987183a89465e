"""A reasoning model beside its base: trajectories and peaks on the same problems, in pairs.

Paper 1's table 2 compares mean MI and AOM of the two. MI(h_t; h_y) depends on the scale of the
activations, and two models have different ones: that the means differ says nothing by itself. So
what has the unit of MI stands here beside what has not. None of it is free of scale altogether: the
kernel is not linear, and a trajectory's shape changes with the scale too (`scale_sweep`).
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from mi_lens.common.provenance import differences
from mi_lens.common.statistics import Estimate, estimate_mean, holm
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks, peak_statistics
from mi_lens.runs.analysis import Analysis
from mi_lens.traces.trace import Trace

IN_UNITS_OF_MI = ("mean MI", "std of MI")
# What two runs may differ in and still be of the same experiment.
OF_ONE_MODEL = {"model", "out", "batch_size", "hook_names"}


@dataclass(frozen=True)
class PairedQuantity:
    """One number a trace, of both models.

    Attributes:
        name: What it is, see `compare_peaks`.
        in_units_of_mi: Whether it scales with MI, and so does not compare between models.
        reasoner: Of the reasoning model, a value for each problem where both models have one.
        base: Of the base, for the same problems.
        reasoner_mean: With its interval over problems.
        base_mean: Likewise.
        difference: Reasoner less base.
        p_value: Two-sided, of Wilcoxon's signed-rank test; 1 where no pair differs.
        p_adjusted: The same, adjusted for the number of quantities (Holm).
    """

    name: str
    in_units_of_mi: bool
    reasoner: tuple[float, ...]
    base: tuple[float, ...]
    reasoner_mean: Estimate
    base_mean: Estimate
    difference: Estimate
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class PeakComparison:
    """Two models on the same problems.

    Attributes:
        hook_names: Of the reasoning model and of the base.
        problems: Ids of the problems compared.
        left_out: Ids of problems that one of the models did not try, or answered in too few steps
            to have peaks.
        settings: What else the runs differ in: name to both values. Should be empty.
        quantities: By name.
    """

    hook_names: tuple[str, str]
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    settings: dict[str, tuple[Any, Any]]
    quantities: dict[str, PairedQuantity]


def compare_peaks(
    reasoner: Analysis, base: Analysis, hook_name: str, base_hook_name: str | None = None
) -> PeakComparison:
    """Pairs two runs by problem.

    In units of MI: "mean MI" and "std of MI" over the steps of a trace. Without unit: "std / mean";
    "AOM", "peaks" and "peaks per step" as paper 1 defines them (a trace without peaks has no AOM:
    it compares traces that have some); "MI / permuted answer", the mean over that with the answer's
    own coordinates in another order. Where the runs were calibrated by other problems' answers:
    "MI / other answers", and "specific part" (mean, in spreads of the other answers) and "specific
    peaks" (significant ones) of `Calibration`. Counts of peaks grow with the trace.

    Args:
        reasoner: Run of the reasoning model.
        base: Run of its base.
        hook_name: Of both, or of the reasoning model.
        base_hook_name: Of the base, if it is another.

    Raises:
        ValueError: If a run did not read its hook name, or no problem has peaks in both.
    """
    names = (hook_name, base_hook_name or hook_name)
    for which, run, name in zip(("reasoner", "base"), (reasoner, base), names, strict=True):
        if name not in run.hook_names:
            raise ValueError(
                f"hook name {name!r} was not read by the {which}'s run, which read "
                f"{list(run.hook_names)}"
            )
    ours, theirs = (_by_problem(run.analysed) for run in (reasoner, base))
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise ValueError(
            f"no problem has peaks in both runs ({len(ours)} problems in one, {len(theirs)} in the "
            "other); analyse the same problems with both models"
        )
    tried = {
        key: trace.problem.id
        for run in (reasoner, base)
        for key, trace in _by_problem(run.traces).items()
        if trace.problem is not None
    }
    values = [
        [quantities(run.measurement(found[key], name), rule=run.peak_rule) for key in shared]
        for run, found, name in zip((reasoner, base), (ours, theirs), names, strict=True)
    ]
    return PeakComparison(
        hook_names=names,
        problems=tuple(tried[key] for key in shared),
        left_out=tuple(name for key, name in tried.items() if key not in shared),
        settings={
            name: values
            for name, values in differences(asdict(reasoner.config), asdict(base.config)).items()
            if name not in OF_ONE_MODEL
        },
        quantities=_paired(*values),
    )


def quantities(measurement: Measurement, *, rule: PeakRule = PAPER_RULE) -> dict[str, float | None]:
    """The numbers of one trace that `compare_peaks` compares; None where one is undefined."""
    statistics = peak_statistics(measurement.mi, find_peaks(measurement.mi, rule))
    permuted = float(measurement.variants["answer permuted"].mean())
    found: dict[str, float | None] = {
        "mean MI": statistics.mean,
        "std of MI": statistics.std,
        "std / mean": _ratio(statistics.std, statistics.mean),
        "AOM": statistics.aom,
        "peaks": float(statistics.count),
        "peaks per step": statistics.ratio,
        "MI / permuted answer": _ratio(statistics.mean, permuted),
    }
    calibration = measurement.calibration
    if calibration is not None:
        found["MI / other answers"] = _ratio(statistics.mean, float(calibration.mean.mean()))
        found["specific part"] = float(calibration.specific.mean())
        found["specific peaks"] = float(len(calibration.peaks(rule)))
    return found


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _by_problem(traces: tuple[Trace, ...]) -> dict[str, Trace]:
    return {trace.problem.key: trace for trace in traces if trace.problem is not None}


def _paired(
    ours: list[dict[str, float | None]], theirs: list[dict[str, float | None]]
) -> dict[str, PairedQuantity]:
    unadjusted = {}
    for name in ours[0]:
        pairs = [
            (a[name], b[name])
            for a, b in zip(ours, theirs, strict=True)
            if a.get(name) is not None and b.get(name) is not None
        ]
        if pairs:
            reasoner, base = np.array(pairs, dtype=float).T
            unadjusted[name] = partial(
                PairedQuantity,
                name=name,
                in_units_of_mi=name in IN_UNITS_OF_MI,
                reasoner=tuple(reasoner.tolist()),
                base=tuple(base.tolist()),
                reasoner_mean=estimate_mean(reasoner.tolist()),
                base_mean=estimate_mean(base.tolist()),
                difference=estimate_mean((reasoner - base).tolist()),
                p_value=_signed_rank(reasoner - base),
            )
    adjusted = holm([made.keywords["p_value"] for made in unadjusted.values()])
    return {
        name: made(p_adjusted=p)
        for (name, made), p in zip(unadjusted.items(), adjusted, strict=True)
    }


def _signed_rank(differences: np.ndarray) -> float:
    differing = differences[differences != 0]
    return float(np.asarray(wilcoxon(differing))[1]) if len(differing) else 1.0
