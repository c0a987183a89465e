"""Whether MI peaks are more than steps of high entropy: MI beside what else changes along a trace.

python -m experiments.entropy_at_peaks
"""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy.stats import rankdata

import mi_lens
from experiments.study import Finding, Study, Verdict, analysis, said, save
from mi_lens.common.statistics import Estimate, estimate_mean, spearman
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
KINDS = {"raw": BLUE, "specific": GREEN}
Blocks = list[Estimate]


@dataclass(frozen=True, kw_only=True)
class Config(Study):
    """What to run: the analysis of every block, which other studies share."""


def main(config: Config) -> None:
    """Correlates MI with the covariates, and compares peaks with other steps, block by block."""
    found = analysis(config)
    read = {
        kind: {
            "rank correlation": {
                name: by_block(found, lambda r, k=kind, n=name: correlation(r, k, n))
                for name in COVARIATES
            },
            "partial with entropy": by_block(found, lambda r, k=kind: partial(r, k)),
            "auc of entropy": by_block(found, lambda r, k=kind: auc(r, k)),
            "entropy at peaks less elsewhere": by_block(found, lambda r, k=kind: excess(r, k)),
        }
        for kind in KINDS
    }
    for kind, numbers in read.items():
        for name, estimates in (*numbers["rank correlation"].items(), *numbers.items()):
            if isinstance(estimates, list):
                print(f"{kind}, {name}: " + ", ".join(said(one, digits=2) for one in estimates))
    save(
        config,
        {config.model: found.traces[0].model},
        draw(read),
        finding(read["raw"], found.hook_names[-1]),
        {"hook_names": found.hook_names, **read},
    )


def by_block(found: mi_lens.Analysis, value: Callable[[Measurement], float | None]) -> Blocks:
    """Means over problems, block by block; traces where the value is undefined do not count."""
    return [
        estimate_mean(
            [v for t in found.analysed if (v := value(found.measurement(t, hook))) is not None]
        )
        for hook in found.hook_names
    ]


def trajectory(measurement: Measurement, kind: str) -> np.ndarray:
    """The raw MI, or its specific part."""
    assert measurement.calibration is not None
    return measurement.mi if kind == "raw" else measurement.calibration.specific


def correlation(measurement: Measurement, kind: str, name: str) -> float | None:
    """Rank correlation with a covariate; None where either does not vary."""
    mi, other = trajectory(measurement, kind), measurement.covariates[name]
    return spearman(mi, other) if np.ptp(mi) and np.ptp(other) else None


def partial(measurement: Measurement, kind: str) -> float:
    """Rank correlation with entropy, norm and position being held."""
    mi, entropy, *held = (
        rankdata(x) for x in (trajectory(measurement, kind), *map(measurement.covariates.get,
                                                              ("entropy", "norm", "position")))
    )  # fmt: skip
    design = np.stack([np.ones_like(mi), *held], axis=1)
    left = [x - design @ np.linalg.lstsq(design, x, rcond=None)[0] for x in (mi, entropy)]
    return float(np.corrcoef(*left)[0, 1])


def at_peaks(measurement: Measurement, kind: str) -> np.ndarray:
    """Which steps are peaks: raw ones, or as many of the highest specific part.

    Peaks of the specific part beyond chance are too few on short traces to be compared.
    """
    raw = mi_lens.find_peaks(measurement.mi)
    steps = raw if kind == "raw" or not len(raw) else highest(measurement, len(raw))
    mask = np.zeros(len(measurement.mi), dtype=bool)
    mask[steps] = True
    return mask


def highest(measurement: Measurement, count: int) -> np.ndarray:
    """The steps of highest specific part."""
    return mi_lens.top_k_peaks(trajectory(measurement, "specific"), count)


def excess(measurement: Measurement, kind: str) -> float | None:
    """Mean entropy at peaks less that of other steps, in bits; None without peaks."""
    mask, entropy = at_peaks(measurement, kind), measurement.covariates["entropy"]
    return float(entropy[mask].mean() - entropy[~mask].mean()) if mask.any() else None


def auc(measurement: Measurement, kind: str) -> float | None:
    """How often a peak has more entropy than another step of its trace; None without peaks."""
    mask = at_peaks(measurement, kind)
    if not mask.any():
        return None
    n = int(mask.sum())
    ranks = rankdata(measurement.covariates["entropy"])[mask].sum()
    return float((ranks - n * (n + 1) / 2) / (n * (len(mask) - n)))


def draw(read) -> Figure:
    """Correlations of the raw MI and of its specific part, and how entropy tells peaks."""
    blocks = range(len(read["raw"]["auc of entropy"]))
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(PAGE, 2.4))
        for axes, kind in ((left, "raw"), (middle, "specific")):
            for name, estimates in read[kind]["rank correlation"].items():
                curve(axes, blocks, estimates, COVARIATES[name], name, marker="o")
            held = read[kind]["partial with entropy"]
            curve(axes, blocks, held, BLUE, "entropy, others held", marker="s")
            axes.axhline(0, color="black", linewidth=0.5)
            axes.set_title(f"{kind} MI")
        middle.sharey(left)
        left.set_ylabel("rank correlation within traces")
        for kind, colour in KINDS.items():
            estimates = read[kind]["auc of entropy"]
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
    """Whether entropy alone tells raw peaks from other steps."""
    area, more, part = (
        raw[name][-1]
        for name in ("auc of entropy", "entropy at peaks less elsewhere", "partial with entropy")
    )
    verdict: Verdict = "in part"
    if area.low is not None and area.low > 0.7:
        verdict = "against"
    elif area.high is not None and area.high <= 0.5:
        verdict = "with"
    elif area.low is None or area.high is None or (area.low <= 0.5 and area.high >= 0.7):
        verdict = "open"
    areas = sorted(one.mean for one in raw["auc of entropy"])
    plain = raw["rank correlation"]["entropy"][-1]
    return Finding(
        about="paper 1, tokens at peaks; criticism: peaks may simply be steps of high entropy",
        claim="MI peaks are not merely steps at which the model is unsure.",
        verdict=verdict,
        text=f"At {last} a raw peak has more entropy than another step of its trace with "
        f"probability {said(area, digits=2)} ({areas[0]:.2f} to {areas[-1]:.2f} by block; .5 is "
        f"chance), by {said(more, digits=2)} bits. The rank correlation of MI with entropy is "
        f"{said(plain, digits=2)}, and {said(part, digits=2)} with norm and position held.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
