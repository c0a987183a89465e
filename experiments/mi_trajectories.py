"""MI along single traces chosen by a rule, with the peaks and the tokens at them.

python -m experiments.mi_trajectories
"""

from dataclasses import dataclass
from textwrap import shorten

import numpy as np
import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIReadingStudy, fingerprint_of, saved_analysis
from experiments.study import save
from experiments.summaries import affine, is_right, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.control_summary import MismatchSummary
from mi_lens.report.plots.peaks import Curve, trajectories_figure

PAPER = (0.0051, 0.048)  # Peaks per step in table 1: the fewest and the most of six models.


@dataclass(frozen=True, kw_only=True)
class Config(MIReadingStudy):
    """What to run.

    Attributes:
        quantiles: Quantiles of length; the right trace nearest to each is drawn.
        wrong: Number of wrong traces that are drawn, those of middle length.
    """

    quantiles: tuple[float, ...] = (0.25, 0.5, 0.75)
    wrong: int = 1


def main(config: Config) -> None:
    """Draws the chosen traces at the last block, and counts peaks over all traces and blocks."""
    analysis = saved_analysis(config)
    last = analysis.hook_names[-1]
    traces = chosen_traces(analysis, config)
    counts = {name: count_peaks(analysis, name) for name in analysis.hook_names}
    print(f"{'block':<26}{'peaks per step':>28}{'specific per step':>32}")
    for name, row in counts.items():
        raw, specific = with_interval(row["raw"], 1, 3), with_interval(row["specific"], 1, 4)
        print(f"{name:<26}{raw:>28}{specific:>32}")
    curves = [curve(analysis, trace, last) for trace in traces]
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        trajectories_figure(curves, analysis.peak_rule),
        finding(counts[last], analysis.controls(last).mismatch),
        {"peaks": counts, "curves": curves, "traces": [trace.id for trace in traces]},
    )


def chosen_traces(analysis: mi_lens.Analysis, config: Config) -> list[mi_lens.Trace]:
    """The right traces at quantiles of length, then the wrong ones nearest to the middle."""
    right = is_right(analysis.analysed)
    groups = [
        [trace for trace, outcome in zip(analysis.analysed, right, strict=True) if outcome == value]
        for value in (1, 0)
    ]
    group_quantiles = [config.quantiles, [0.5] * config.wrong]
    drawn: list[mi_lens.Trace] = []
    for group, quantiles in zip(groups, group_quantiles, strict=True):
        lengths = np.array([len(trace) for trace in group])
        for quantile in quantiles if len(group) else ():
            near = np.argsort(np.abs(lengths - np.quantile(lengths, quantile)), kind="stable")
            drawn += [group[i] for i in near if group[i] not in drawn][:1]
    return drawn


def curve(analysis: mi_lens.Analysis, trace: mi_lens.Trace, hook_name: str) -> Curve:
    """A trace with its MI, its peaks and the labels of its tokens, for drawing."""
    assert trace.problem is not None
    question = shorten(trace.problem.question, 72, placeholder=" …")
    told = "right" if is_right([trace])[0] else "wrong"
    if trace.is_correct is not None:
        told = f"read, not written; its author is {told}"
    calibration = analysis.measurement(trace, hook_name).calibration
    strings = dict(
        zip((other.id for other in analysis.traces), analysis.token_strings, strict=True)
    )
    labels = [
        string if any(map(str.isalnum, string)) else f"“{string.strip(' ')}”".replace("\n", "↵")
        for string in strings[trace.id]
    ]
    return Curve(
        title=f"{question} ({told})",
        mi=analysis.mi(trace, hook_name),
        peaks=analysis.peaks(trace, hook_name),
        labels=labels,
        mismatched=None if calibration is None else calibration.band(),
        specific_peaks=analysis.specific_peaks(trace, hook_name),
    )


def count_peaks(analysis: mi_lens.Analysis, hook_name: str) -> dict[str, Estimate]:
    """Peaks per step, and raw and specific peaks per trace beyond chance, over problems."""
    raw, specific = [], []
    for trace in analysis.analysed:
        peaks = analysis.peaks(trace, hook_name)
        raw.append(len(peaks) / len(trace))
        specific_peaks = analysis.specific_peaks(trace, hook_name)
        if specific_peaks is None:  # Too few other answers to tell.
            continue
        specific.append(len(specific_peaks) / len(trace))
    mismatch = analysis.controls(hook_name).mismatch
    if mismatch is None or mismatch.excess is None or mismatch.shared_excess is None:
        beyond = both = Estimate(None, None, None, 0)
    else:
        beyond, both = mismatch.excess, mismatch.shared_excess
    return {
        "raw": estimate_mean(raw),
        "specific": estimate_mean(specific),
        "specific a trace, less those of another answer": beyond,
        "specific and raw a trace, less those of another answer": both,
    }


def finding(counts: dict[str, Estimate], mismatch: MismatchSummary | None) -> Finding:
    """Whether peaks are as sparse as in table 1."""
    others = 0 if mismatch is None else mismatch.others
    raw = counts["raw"]
    beyond, both = (
        counts[f"{kind} a trace, less those of another answer"]
        for kind in ("specific", "specific and raw")
    )
    if mismatch is None or mismatch.chance is None:
        specific = (
            f"Whether some of them are peaks of this answer and no other, the answers of {others} "
            "other problems are too few to tell."
        )
    else:
        specific = (
            f"Above what the answers of {others} other problems reach at the same states "
            f"(family-wise .05) a trace has {with_interval(beyond, digits=2)} peaks more with the "
            "gold answer than with another problem's answer in its place "
            f"({mismatch.peaks:.2f} against {mismatch.chance:.2f}), and "
            f"{with_interval(both, digits=2)} more of those that are raw peaks too."
        )
    return Finding(
        about="paper 1, MI trajectories; criticism: one pair of vectors is no information",
        claim="MI with the answer leaps at few steps, between .005 and .048 of them.",
        # A count of significant peaks would be no test: a peak may be real and not be significant.
        tests=(
            ClaimTest(
                f"fewer peaks than {100 * PAPER[1]:.1f} % of the steps, the most in the paper",
                affine(raw, -100, 100 * PAPER[1]),
                0.0,
                "points",
            ),
        ),
        text=f"At the last block {with_interval(raw, 100)} % of the steps are peaks of MI with the "
        f"gold answer. {specific}",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
