"""Whether MI peaks are only steps of high entropy: MI beside other quantities of the trace.

python -m experiments.entropy_at_peaks
"""

from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy.stats import rankdata

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIStudy, fingerprint_of, saved_analysis
from experiments.study import save
from experiments.summaries import affine, by_block, with_interval
from mi_lens.common.statistics import spearman
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.report.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    curve,
    legend_above,
    style,
)

COVARIATES = {"entropy": ORANGE, "surprisal": PURPLE, "norm": GREEN, "position": GREY}
LARGE = 0.7  # Probability that a peak has more entropy, where entropy would explain peaks.
KINDS = {"raw": BLUE, "specific": GREEN}


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run; the study has no settings of its own."""


def main(config: Config) -> None:
    """Correlates MI with the covariates, and compares peaks with other steps, block by block."""
    analysis = saved_analysis(config)
    by_kind = {
        kind: {
            "rank correlation": {
                name: by_block(analysis, partial(correlation, kind=kind, name=name))
                for name in COVARIATES
            },
            "partial with entropy": by_block(analysis, partial(partial_correlation, kind=kind)),
            "auc of entropy": by_block(analysis, partial(auc, kind=kind)),
            "entropy at peaks less elsewhere": by_block(analysis, partial(excess, kind=kind)),
        }
        for kind in KINDS
    }
    for kind, numbers in by_kind.items():
        for name, estimates in (*numbers["rank correlation"].items(), *numbers.items()):
            if isinstance(estimates, list):
                cells = [with_interval(estimate, digits=2) for estimate in estimates]
                print(f"{kind}, {name}: " + ", ".join(cells))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(by_kind),
        finding(by_kind["raw"], analysis.hook_names[-1]),
        {"hook_names": analysis.hook_names, **by_kind},
    )


def trajectory(measurement: Measurement, kind: str) -> np.ndarray:
    """The raw MI, or its specific part."""
    assert measurement.calibration is not None
    return measurement.mi if kind == "raw" else measurement.calibration.specific


def correlation(measurement: Measurement, kind: str, name: str) -> float | None:
    """Rank correlation of MI with a covariate; None where either does not vary."""
    mi, other = trajectory(measurement, kind), measurement.covariates[name]
    return spearman(mi, other) if np.ptp(mi) and np.ptp(other) else None


def partial_correlation(measurement: Measurement, kind: str) -> float:
    """Partial rank correlation of MI with entropy, given norm and position."""
    mi = rankdata(trajectory(measurement, kind))
    entropy, norm, position = (
        rankdata(measurement.covariates[name]) for name in ("entropy", "norm", "position")
    )
    design = np.stack([np.ones_like(mi), norm, position], axis=1)
    residuals = [
        ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0] for ranks in (mi, entropy)
    ]
    return float(np.corrcoef(*residuals)[0, 1])


def at_peaks(measurement: Measurement, kind: str) -> np.ndarray:
    """Mask of the peaks: raw ones, or as many steps of highest specific part.

    Short traces have too few peaks of the specific part beyond chance to compare those.
    """
    raw = mi_lens.find_peaks(measurement.mi)
    steps = raw if kind == "raw" or not len(raw) else highest(measurement, len(raw))
    mask = np.zeros(len(measurement.mi), dtype=bool)
    mask[steps] = True
    return mask


def highest(measurement: Measurement, count: int) -> np.ndarray:
    """The `count` steps of highest specific part."""
    return mi_lens.top_k_peaks(trajectory(measurement, "specific"), count)


def excess(measurement: Measurement, kind: str) -> float | None:
    """Mean entropy at peaks less mean entropy at other steps, in bits; None without peaks."""
    mask, entropy = at_peaks(measurement, kind), measurement.covariates["entropy"]
    return float(entropy[mask].mean() - entropy[~mask].mean()) if mask.any() else None


def auc(measurement: Measurement, kind: str) -> float | None:
    """Probability that a peak has more entropy than another step; None without peaks."""
    mask = at_peaks(measurement, kind)
    if not mask.any():
        return None
    peaks = int(mask.sum())
    ranks = rankdata(measurement.covariates["entropy"])[mask].sum()
    return float((ranks - peaks * (peaks + 1) / 2) / (peaks * (len(mask) - peaks)))


def draw(by_kind) -> Figure:
    """Correlations of the raw MI and of its specific part, and how well entropy predicts peaks."""
    blocks = range(len(by_kind["raw"]["auc of entropy"]))
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.4))
        for axes, kind in ((left, "raw"), (middle, "specific")):
            for name, estimates in by_kind[kind]["rank correlation"].items():
                curve(axes, blocks, estimates, COVARIATES[name], name, marker="o")
            held = by_kind[kind]["partial with entropy"]
            curve(axes, blocks, held, BLUE, "entropy, others held", marker="s")
            axes.axhline(0, color="black", linewidth=0.5)
            axes.set_title(f"{kind} MI")
        middle.sharey(left)
        left.set_ylabel("rank correlation within traces")
        for kind, colour in KINDS.items():
            estimates = by_kind[kind]["auc of entropy"]
            curve(right, blocks, estimates, colour, kind, marker="o")
        right.axhline(0.5, color="black", linewidth=0.5, linestyle=":")
        right.set_ylim(0, 1)
        right.set_ylabel("P(more entropy at a peak)")
        right.set_title("peaks against other steps")
        right.legend()
        for axes in (left, middle, right):
            axes.set_xticks(blocks)
            axes.set_xlabel("block")
        legend_above(figure, left)
    return figure


def finding(raw, last: str) -> Finding:
    """Whether entropy alone separates raw peaks from other steps."""
    area, more, part = (
        raw[name][-1]
        for name in ("auc of entropy", "entropy at peaks less elsewhere", "partial with entropy")
    )
    areas = sorted(estimate.mean for estimate in raw["auc of entropy"])
    plain = raw["rank correlation"]["entropy"][-1]
    return Finding(
        about="paper 1, tokens at peaks; criticism: peaks may simply be steps of high entropy",
        claim="MI peaks are not merely steps at which the model is unsure.",
        tests=(
            ClaimTest(
                f"{LARGE:g}, above which entropy would tell peaks from other steps, less the "
                "probability that a peak has more entropy",
                affine(area, -1, LARGE),
                0.0,
                "of the probability",
            ),
        ),
        text=f"At {last} a raw peak has more entropy than another step of its trace with "
        f"probability {with_interval(area, digits=2)} ({areas[0]:.2f} to {areas[-1]:.2f} by block; "
        f".5 is chance), by {with_interval(more, digits=2)} bits. The rank correlation of MI with "
        f"entropy is {with_interval(plain, digits=2)}, and {with_interval(part, digits=2)} with "
        "norm and position held.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
