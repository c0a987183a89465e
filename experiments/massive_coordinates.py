"""Whether MI's peaks are those of a few massive coordinates, block by block.

python -m experiments.massive_coordinates
"""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from experiments.labels import Finding, Premise, half_shared
from experiments.mi_study import MIReadingStudy, fingerprint_of, saved_analysis, states_of
from experiments.study import save
from experiments.summaries import by_block, evenly_spaced, shared_peaks, with_interval
from mi_lens.common.statistics import Estimate, estimate_mean
from mi_lens.information.per_trace.measurement import Measurement
from mi_lens.report.plots.style import BLUE, GREEN, GREY, ORANGE, PAGE, PURPLE, curve, style

REMOVED = "massive removed"


@dataclass(frozen=True, kw_only=True)
class Config(MIReadingStudy):
    """What to run; the study has no settings of its own."""


def main(config: Config) -> None:
    """Counts massive coordinates, and compares the peaks with and without them."""
    analysis = saved_analysis(config)
    largest = [
        [largest_over_median(states) for states in states_of(analysis, name)]
        for name in analysis.hook_names
    ]
    numbers = {
        "massive coordinates": by_block(analysis, lambda m: float(m.massive)),
        "largest over median": [estimate_mean(values) for values in largest],
        "mean MI left": by_block(analysis, mi_left),
        "peaks shared": by_block(analysis, peaks_shared),
    }
    for name, estimates in numbers.items():
        print(f"{name}, by block: " + ", ".join(with_interval(e, digits=2) for e in estimates))
    save(
        config,
        {config.model: fingerprint_of(analysis)},
        draw(numbers),
        finding(numbers),
        {"hook_names": analysis.hook_names, **numbers},
    )


def largest_over_median(states: Tensor) -> float:
    """The largest magnitude of a state over the median of its magnitudes; mean over steps."""
    magnitude = states.double().abs()
    return float((magnitude.amax(1) / magnitude.median(1).values).mean())


def mi_left(measurement: Measurement) -> float:
    """Mean MI without massive coordinates, over mean MI."""
    return float(measurement.variants[REMOVED].mean() / measurement.mi.mean())


def peaks_shared(measurement: Measurement) -> float | None:
    """Share of the peaks that stand with and without massive coordinates; None without peaks."""
    return shared_peaks(measurement.mi, measurement.variants[REMOVED])


def draw(numbers: Mapping[str, list[Estimate]]) -> Figure:
    """One panel per quantity, by block."""
    panels_of = {
        "massive coordinates": ("massive coordinates\na trace", ORANGE, 1.0),
        "largest over median": ("largest magnitude\nover the median", PURPLE, 1.0),
        "mean MI left": ("% of mean MI left\nwithout them", GREEN, 100.0),
        "peaks shared": ("% of peaks shared\nwithout them", BLUE, 100.0),
    }
    with style():
        figure, panels = plt.subplots(1, len(panels_of), figsize=(PAGE, 2.1))
        for axes, (name, (label, colour, scale)) in zip(panels, panels_of.items(), strict=True):
            estimates = numbers[name]
            curve(axes, range(len(estimates)), estimates, colour, scale=scale, marker="o")
            axes.set_xlabel("block")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            if scale > 1:
                axes.axhline(scale, color=GREY, linewidth=0.5, linestyle=":")
    return figure


def finding(numbers: Mapping[str, list[Estimate]]) -> Finding:
    """Whether at least half of the peaks stay when massive coordinates are removed."""
    counts, shares = numbers["massive coordinates"], numbers["peaks shared"]
    with_any = [i for i, count in enumerate(counts) if count.mean]
    most = max(range(len(counts)), key=lambda i: counts[i].mean or 0.0)
    compared = [with_any[i] for i in evenly_spaced(len(with_any), 4)] if with_any else []
    measured = [i for i in with_any if shares[i].mean is not None]
    lost = min(measured, key=lambda i: shares[i].mean or 0.0, default=most)
    left = np.array([estimate.mean for estimate in numbers["mean MI left"]], dtype=float)
    size = max(estimate.mean or 0.0 for estimate in numbers["largest over median"])
    return Finding(
        about="criticism of paper 1: one shared large coordinate gives MI by itself",
        claim="MI peaks do not hang on a few massive coordinates.",
        premises=(
            Premise(
                "There must be massive coordinates, at least one a trace at some block: there are "
                f"{with_interval(counts[most])} at block {most}, where there are most.",
                "premise not met",
                counts[most],
                1.0,
            ),
        ),
        tests=half_shared(
            {f"peaks shared without them at block {i}, less one half": shares[i] for i in compared}
        )
        or half_shared({"peaks shared at the last block, less one half": shares[-1]}),
        text=f"Of {len(counts)} blocks {len(with_any)} have massive coordinates (more than 30 "
        f"times the median magnitude), up to {with_interval(counts[most])} a trace at block "
        f"{most}, and the largest magnitude of a state is up to {size:.0f} times its median. "
        f"Without them {100 * left.min():.0f} to {100 * left.max():.0f} % of mean MI is left, by "
        f"block, and of the peaks with or without them {with_interval(shares[lost], 100)} % are "
        f"of both at block {lost}, where fewest are.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
