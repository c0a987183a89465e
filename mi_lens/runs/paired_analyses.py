"""Compares a reasoning model with its base: trajectories and peaks, paired by problem.

Paper 1's table 2 compares mean MI and AOM of the two models. MI(h_t; h_y) depends on the scale of
the activations, which differs between models, so a difference of the means alone shows nothing.
Here quantities in units of MI are reported together with quantities without a unit. The latter also
depend on the scale to some degree: the kernel is not linear, so the scale changes the shape of a
trajectory (`scale_sweep`).
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
# Settings in which the two runs may differ.
OF_ONE_MODEL = {"model", "out", "batch_size", "hook_names"}


@dataclass(frozen=True)
class PairedQuantity:
    """A quantity of both models, with one value per trace.

    Attributes:
        name: Name of the quantity, see `compare_peaks`.
        in_units_of_mi: Whether the quantity scales with MI. If so, its values cannot be compared
            between models.
        reasoner: Values of the reasoning model, one per problem for which both models have a value.
        base: Values of the base, for the same problems.
        reasoner_mean: Mean of the reasoning model, with its interval over problems.
        base_mean: Mean of the base, with its interval over problems.
        difference: Mean of reasoner minus base, with its interval over problems.
        p_value: Two-sided p-value of Wilcoxon's signed-rank test; 1 where no pair differs.
        p_adjusted: The p-value after Holm's correction over the quantities.
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
    """The comparison of two models on the same problems.

    Attributes:
        hook_names: Hook names of the reasoning model and of the base.
        problems: Ids of the problems compared.
        left_out: Ids of problems that one of the models did not try, or answered in too few steps
            to have peaks.
        settings: Other settings in which the runs differ: name to both values. It should be empty.
        quantities: Name to quantity.
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

    In units of MI are "mean MI" and "std of MI" over the steps of a trace. Without a unit are
    "std / mean"; "AOM", "peaks" and "peaks per step" as paper 1 defines them (a trace without peaks
    has no AOM and is left out of it); and "MI / permuted answer", the mean MI divided by the mean
    MI with the answer's coordinates permuted. If both runs were calibrated with other problems'
    answers, there are also "MI / other answers", "specific part" (its mean, in standard deviations
    over the other answers) and "specific peaks" (the number of significant ones); see
    `Calibration`. Numbers of peaks grow with the length of the trace.

    Args:
        reasoner: Run of the reasoning model.
        base: Run of its base.
        hook_name: Hook name of both models, or of the reasoning model.
        base_hook_name: Hook name of the base, if it differs.

    Raises:
        ValueError: If a run did not read its hook name, or no problem has peaks in both runs.
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
            f"no problem has peaks in both runs ({len(ours)} problems have them in the reasoner's, "
            f"{len(theirs)} in the base's); analyse the same problems with both models"
        )
    ids = {
        key: trace.problem.id
        for run in (reasoner, base)
        for key, trace in _by_problem(run.traces).items()
        if trace.problem is not None
    }
    values = [
        [quantities(run.measurement(traces[key], name), rule=run.peak_rule) for key in shared]
        for run, traces, name in zip((reasoner, base), (ours, theirs), names, strict=True)
    ]
    return PeakComparison(
        hook_names=names,
        problems=tuple(ids[key] for key in shared),
        left_out=tuple(name for key, name in ids.items() if key not in shared),
        settings={
            name: values
            for name, values in differences(asdict(reasoner.config), asdict(base.config)).items()
            if name not in OF_ONE_MODEL
        },
        quantities=_paired(*values),
    )


def quantities(measurement: Measurement, *, rule: PeakRule = PAPER_RULE) -> dict[str, float | None]:
    """The quantities of a trace that `compare_peaks` compares; None where one is undefined."""
    statistics = peak_statistics(measurement.mi, find_peaks(measurement.mi, rule))
    permuted = float(measurement.variants["answer permuted"].mean())
    values: dict[str, float | None] = {
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
        values["MI / other answers"] = _ratio(statistics.mean, float(calibration.mean.mean()))
        values["specific part"] = float(calibration.specific.mean())
        values["specific peaks"] = (
            float(len(calibration.peaks(rule))) if calibration.decides() else None
        )
    return values


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


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
    adjusted = holm([quantity.keywords["p_value"] for quantity in unadjusted.values()])
    return {
        name: quantity(p_adjusted=p)
        for (name, quantity), p in zip(unadjusted.items(), adjusted, strict=True)
    }


def _signed_rank(differences: np.ndarray) -> float:
    differing = differences[differences != 0]
    return float(np.asarray(wilcoxon(differing))[1]) if len(differing) else 1.0
