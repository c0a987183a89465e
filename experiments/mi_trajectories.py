"""MI against the step, of traces chosen by a rule, with peaks and the tokens that stand there.

python -m experiments.mi_trajectories
"""

from dataclasses import dataclass
from textwrap import shorten

import numpy as np
import tyro

import mi_lens
from experiments.study import Finding, Study, Verdict, analysis, is_right, said, save
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.control_summary import MismatchSummary
from mi_lens.report.plots.peaks import Curve, trajectories_figure

PAPER = (0.0051, 0.048)  # Peaks a step in table 1: the fewest and the most of six models.


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run.

    Attributes:
        quantiles: Of the length of right traces: those nearest to them are drawn.
        wrong: Wrong traces that are drawn, those of middle length.
    """

    quantiles: tuple[float, ...] = (0.25, 0.5, 0.75)
    wrong: int = 1


def main(config: Config) -> None:
    """Draws the chosen traces at the last block; counts peaks over all traces and blocks."""
    found = analysis(config)
    last = found.hook_names[-1]
    chosen = choose(found, config)
    counts = {name: count_peaks(found, name) for name in found.hook_names}
    print(f"{'block':<26}{'peaks a step':>28}{'specific a step':>32}")
    for name, row in counts.items():
        print(f"{name:<26}{said(row['raw'], 1, 3):>28}{said(row['specific'], 1, 4):>32}")
    curves = [curve(found, trace, last) for trace in chosen]
    save(
        config,
        {config.model: found.traces[0].model},
        trajectories_figure(curves, found.peak_rule),
        finding(counts[last], found.controls(last).mismatch),
        {"peaks": counts, "curves": curves, "traces": [trace.id for trace in chosen]},
    )


def choose(found: mi_lens.Analysis, config: Config) -> list[mi_lens.Trace]:
    """The right traces at quantiles of length, then the wrong ones nearest to the middle."""
    right = is_right(found.analysed)
    groups = [
        [trace for trace, one in zip(found.analysed, right, strict=True) if one == wanted]
        for wanted in (1, 0)
    ]
    wanted = [config.quantiles, [0.5] * config.wrong]
    chosen: list[mi_lens.Trace] = []
    for traces, quantiles in zip(groups, wanted, strict=True):
        lengths = np.array([len(trace) for trace in traces])
        for quantile in quantiles if len(traces) else ():
            near = np.argsort(np.abs(lengths - np.quantile(lengths, quantile)), kind="stable")
            chosen += [traces[i] for i in near if traces[i] not in chosen][:1]
    return chosen


def curve(found: mi_lens.Analysis, trace: mi_lens.Trace, hook_name: str) -> Curve:
    """A trace as it is drawn."""
    assert trace.problem is not None
    question = shorten(trace.problem.question, 72, placeholder=" …")
    calibration = found.measurement(trace, hook_name).calibration
    strings = dict(zip((one.id for one in found.traces), found.token_strings, strict=True))
    labels = [s if any(map(str.isalnum, s)) else f"“{s.strip()}”" for s in strings[trace.id]]
    return Curve(
        title=f"{question} ({'right' if is_right([trace])[0] else 'wrong'})",
        mi=found.mi(trace, hook_name),
        peaks=found.peaks(trace, hook_name),
        labels=labels,
        mismatched=None if calibration is None else calibration.band(),
        specific_peaks=found.specific_peaks(trace, hook_name) or (),
    )


def count_peaks(found: mi_lens.Analysis, hook_name: str) -> dict[str, Estimate]:
    """Peaks a step and the share of them that are specific, over problems."""
    raw, specific, shares = [], [], []
    for trace in found.analysed:
        peaks = found.peaks(trace, hook_name)
        some = found.specific_peaks(trace, hook_name) or []
        raw.append(len(peaks) / len(trace))
        specific.append(len(some) / len(trace))
        if peaks:
            shares.append(len(set(peaks) & set(some)) / len(peaks))
    return {
        "raw": estimate_mean(raw),
        "specific": estimate_mean(specific),
        "share of raw peaks that are specific": estimate_mean(shares),
    }


def finding(counts: dict[str, Estimate], mismatch: MismatchSummary | None) -> Finding:
    """Whether peaks are as sparse as in table 1, and whether most are about the answer at all."""
    others = 0 if mismatch is None else mismatch.others
    raw, share = counts["raw"], counts["share of raw peaks that are specific"]
    sparse = raw.high is not None and raw.high <= PAPER[1]
    about = share.low is not None and share.low > 0.5
    verdict: Verdict = "with" if sparse and about else "in part" if sparse or about else "open"
    dense = raw.low is not None and raw.low > PAPER[1]
    if verdict == "open" and (dense or (share.high is not None and share.high < 0.5)):
        verdict = "against"
    return Finding(
        about="paper 1, MI trajectories; criticism: one pair of vectors is no information",
        claim="MI with the answer leaps at few steps, between .005 and .048 of them.",
        verdict=verdict,
        text=f"At the last block {said(raw, 100)} % of the steps are peaks of MI with the gold "
        f"answer. Of these {said(share, 100)} % lie above what the answers of {others} other "
        "problems give at the same states by more than chance; the rest cannot be told from what "
        "other answers give.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
