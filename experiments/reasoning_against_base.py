"""Mean MI, AOM and peaks of a reasoner and its base on the same problems (paper 1, table 2).

python -m experiments.reasoning_against_base
"""

from dataclasses import dataclass

import tyro

import mi_lens
from experiments.labels import ClaimTest, Finding
from experiments.mi_study import MIStudy, saved_analysis
from experiments.study import save
from experiments.summaries import with_interval
from mi_lens.models.pocket import BASES
from mi_lens.report.plots.paired_analyses import paired_peaks_figure
from mi_lens.runs.paired_analyses import PairedQuantity, PeakComparison

# Mean MI of the base and of the reasoning model, then AOM of both.
PAPER = {
    "Llama-3.1-8B": (0.0863, 0.1279, 3.36, 4.52),
    "Qwen2.5-Math-7B": (2.197, 3.302, 2.63, 2.75),
    "Qwen2.5-14B": (1.313, 3.351, 2.65, 3.08),
    "Qwen2.5-32B": (1.767, 4.035, 2.55, 2.60),
}
CLAIMED = ("mean MI", "AOM")


@dataclass(frozen=True, kw_only=True)
class Config(MIStudy):
    """What to run.

    Attributes:
        base: The model that the reasoner was trained from, or a similar one with as many blocks.
            None means the base of a pocket model; other models need this setting.
    """

    base: str | None = None


def main(config: Config) -> None:
    """Compares reasoner and base at every block, and draws the last block."""
    base_model = base_of(config)
    reasoner, base = saved_analysis(config), saved_analysis(config, base_model)
    if len(reasoner.hook_names) != len(base.hook_names):
        raise ValueError(
            f"{config.model} has {len(reasoner.hook_names)} blocks and {base_model} "
            f"{len(base.hook_names)}; blocks are compared one with one, so give a base of as many"
        )
    comparisons = {
        name: mi_lens.compare_peaks(reasoner, base, name, base_name)
        for name, base_name in zip(reasoner.hook_names, base.hook_names, strict=True)
    }
    for name, comparison in comparisons.items():
        print(name)
        for quantity in comparison.quantities.values():
            print(f"  {quantity.name:<22}{row(quantity)}")
    last = comparisons[reasoner.hook_names[-1]]
    save(
        config,
        {config.model: reasoner.traces[0].model, base_model: base.traces[0].model},
        paired_peaks_figure(last),
        finding(last, list(comparisons.values())),
        {
            "blocks": {name: means(comparison) for name, comparison in comparisons.items()},
            "last block": last,
            "paper": PAPER,
        },
    )


def base_of(config: Config) -> str:
    """The base named in the settings, or that of a pocket model."""
    base = config.base or BASES.get(config.model)
    if base is None:
        raise ValueError(
            f"model={config.model!r} without a base; name the model that it was made from (--base)"
        )
    return base


def row(quantity: PairedQuantity) -> str:
    """Means of both models, their difference and its p-value, as text."""
    means = (quantity.reasoner_mean, quantity.base_mean, quantity.difference)
    cells = "".join(f"{with_interval(mean, 1, 3):>28}" for mean in means)
    return f"{cells}  p = {quantity.p_adjusted:.2g}"


def means(comparison: PeakComparison) -> dict[str, object]:
    """Means and test of every quantity, without the values of each problem."""
    values = ("reasoner", "base")
    return {
        name: {key: value for key, value in vars(quantity).items() if key not in values}
        for name, quantity in comparison.quantities.items()
    }


def finding(last: PeakComparison, blocks: list[PeakComparison]) -> Finding:
    """Whether mean MI and AOM are higher in the reasoner, also where MI has no unit."""
    missing = [name for name in (*CLAIMED, "MI / other answers") if name not in last.quantities]
    if missing:
        raise ValueError(
            f"{len(last.problems)} problems define no {' or '.join(missing)} in both models; "
            "raise limit"
        )
    mi, aom = (last.quantities[name] for name in CLAIMED)
    specific = last.quantities["MI / other answers"]
    # The margins are a tenth of the base's own, and the least difference of AOM in the paper.
    margins = (
        0.1 * (mi.base_mean.mean or 0.0),
        min(reasoner - base for _, _, base, reasoner in PAPER.values()),
        0.1 * (specific.base_mean.mean or 0.0),
    )
    by_block = [
        block.quantities["AOM"].difference.mean for block in blocks if "AOM" in block.quantities
    ]
    aoms = [mean for mean in by_block if mean is not None]
    return Finding(
        about="paper 1, table 2; criticism: MI depends on the activations' scale",
        claim="A reasoning model has higher mean MI and more abnormal peaks (AOM) than its base.",
        tests=tuple(
            ClaimTest(f"{quantity.name}, reasoner less base", quantity.difference, margin, unit)
            for quantity, margin, unit in zip(
                (mi, aom, specific), margins, ("of MI", "of AOM", "of the ratio"), strict=True
            )
        ),
        text=f"Reasoner less base at the last block on {len(last.problems)} problems: mean MI "
        f"{with_interval(mi.difference, 1, 4)} (Holm p = {mi.p_adjusted:.2g}), AOM "
        f"{with_interval(aom.difference, 1, 2)} (p = {aom.p_adjusted:.2g}; {min(aoms):+.2f} to "
        f"{max(aoms):+.2f} by block). MI compares between models only "
        "where its unit cancels: over MI with other problems' answers it is "
        f"{with_interval(specific.reasoner_mean, 1, 2)} in the reasoner and "
        f"{with_interval(specific.base_mean, 1, 2)} in the base (p = {specific.p_adjusted:.2g}).",
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
