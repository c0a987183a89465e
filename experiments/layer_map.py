"""Where on a trace, and at which depth, MI is high: the map of one trace, and peaks block by block.

python -m experiments.layer_map
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from textwrap import shorten

import tyro

import mi_lens
from experiments.labels import Finding, half_shared
from experiments.mi_study import MIReadingStudy, fingerprint_of, saved_analysis
from experiments.study import save
from experiments.summaries import evenly_spaced, shared_peaks, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean


@dataclass(frozen=True, kw_only=True)
class Config(MIReadingStudy):
    """What to run; the study has no settings of its own."""


def main(config: Config) -> None:
    """Draws the map of the trace of middle length, and compares the peaks of all blocks."""
    analysis = saved_analysis(config)
    trace = sorted(analysis.analysed, key=len)[len(analysis.analysed) // 2]
    hooks = analysis.hook_names
    ratio = {
        name: estimate_mean([len(analysis.peaks(t, name)) / len(t) for t in analysis.analysed])
        for name in hooks
    }
    with_last = {name: shared(analysis, name, hooks[-1]) for name in hooks[:-1]}
    with_next = {name: shared(analysis, name, after) for name, after in pairwise(hooks)}
    for name, estimate in with_last.items():
        print(
            f"{name}: {with_interval(ratio[name], 100)} % of steps are peaks, shared with the last "
            f"block {with_interval(estimate, 100)} %, with the next "
            f"{with_interval(with_next[name], 100)} %"
        )
    question = shorten(trace.require_problem("that is drawn").question, 48, placeholder=" …")
    label = f"MI with the gold answer (dots: peaks): {question}"
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        mi_lens.plot_map(analysis, trace, normalise=True, label=label),
        finding(ratio, with_last, with_next),
        {
            "trace": trace.id,
            "peaks per step": ratio,
            "peaks shared with the last block": with_last,
            "peaks shared with the next block": with_next,
        },
    )


def shared(analysis: mi_lens.Analysis, name: str, other: str) -> Estimate:
    """Peaks at both hook names over peaks at either, over traces; traces without any are left."""
    overlaps = [
        shared_peaks(analysis.measurement(t, name).mi, analysis.measurement(t, other).mi)
        for t in analysis.analysed
    ]
    return estimate_mean([overlap for overlap in overlaps if overlap is not None])


def block(hook_name: str) -> str:
    """As "block 3"."""
    return f"block {hook_name.split('.')[1]}"


def finding(
    ratio: Mapping[str, Estimate],
    with_last: Mapping[str, Estimate],
    with_next: Mapping[str, Estimate],
) -> Finding:
    """Whether the peaks of other blocks are those of the last."""
    names = list(with_last)
    compared = [names[i] for i in evenly_spaced(len(names), 4)]
    shares = {name: with_last[name] for name in compared}
    least, most = (extreme(names, key=lambda n: with_next[n].mean or 0.0) for extreme in (min, max))
    fewest, most_peaks = (
        extreme(ratio, key=lambda n: ratio[n].mean or 0.0) for extreme in (min, max)
    )
    told = ", ".join(f"{with_interval(shares[n], 100)} % at {block(n)}" for n in compared)
    return Finding(
        about="paper 1, MI trajectories at one layer; criticism: the layer is not argued",
        claim="MI peaks are steps of the trace, whichever layer they are read at.",
        tests=half_shared(
            {
                f"peaks at {block(n)} shared with the last block, less one half": shares[n]
                for n in shares
            }
        ),
        text=f"Of the peaks at a block or at the last one, at both are {told}; of those of "
        f"neighbouring blocks, {with_interval(with_next[least], 100)} % ({block(least)}) to "
        f"{with_interval(with_next[most], 100)} % ({block(most)}). Peaks are "
        f"{with_interval(ratio[fewest], 100)} % of the steps at {block(fewest)} and "
        f"{with_interval(ratio[most_peaks], 100)} % at {block(most_peaks)}.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
