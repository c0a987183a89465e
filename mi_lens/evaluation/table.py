"""The paired table of conditions, as text and as HTML."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mi_lens.common.html import table
from mi_lens.evaluation.comparison import Arm, Comparison, compare_all, interval


def report(arms: Sequence[Arm], base: Arm) -> str:
    """The paired table, the split of every difference, and what it can show at all, as text."""
    found = compare_all(arms, base)
    accuracy = base.accuracy()
    width = max(24, len(base.name), *(len(arm.name) for arm in arms))
    lines = [
        f"{accuracy.n} problems, {len(base.results)} traces a condition; differences from "
        f"{base.name!r}, paired by problem, 95 % intervals over problems",
        "",
        f"{'condition':<{width}} {'acc.':>6} {'difference':>22} {'+':>4}{'-':>4} {'p (Holm)':>9} "
        f"{'tokens':>7} {'difference':>20} {'capped':>7}",
    ]
    capped = float(np.mean([r.capped for r in base.results]))
    tokens = base.tokens().mean
    assert accuracy.mean is not None
    assert tokens is not None
    lines.append(
        f"{base.name:<{width}} {100 * accuracy.mean:>6.1f} {'':>22} {'':>8} {'':>9} "
        f"{tokens:>7.0f} {'':>20} {100 * capped:>6.1f}%"
    )
    for arm, one in zip(arms, found, strict=True):
        capped = float(np.mean([r.capped for r in arm.results]))
        lines.append(
            f"{one.name:<{width}} {100 * one.accuracy:>6.1f} "
            f"{interval(one.difference, 100.0):>22} "
            f"{one.mended:>4}{one.broken:>4} {one.adjusted:>9.2g} {arm.tokens().mean:>7.0f} "
            f"{interval(one.tokens):>20} {100 * capped:>6.1f}%"
        )
    lines += ["", "Difference in accuracy (points) by part of the problems, and within a budget:"]
    for one in found:
        parts = [f"{name} {interval(e, 100.0)} [{e.n}]" for name, e in one.split.items()]
        parts += [f"within {b} tokens {100 * d:+.1f}" for b, d in one.within.items()]
        lines.append(f"  {one.name}: " + "; ".join(parts))
    lines += ["", "Power:"]
    for one in found:
        needed = f"{one.needed} problems would be needed" if one.needed else "no difference seen"
        lines.append(
            f"  {one.name}: a gain of 5 points would be found with probability {one.power:.2f}; "
            f"to find the difference seen with probability .8, {needed}"
        )
    return "\n".join(lines)


def report_table(arms: Sequence[Arm], base: Arm) -> str:
    """The paired table as HTML, for a notebook."""
    accuracy = base.accuracy()
    found: list[Comparison | None] = [None, *compare_all(arms, base)]
    rows = [_cells(arm, one) for arm, one in zip([base, *arms], found, strict=True)]
    header = (
        "condition", "accuracy, %", "difference, points", "mended", "broken", "p (Holm)",
        "tokens", "difference, tokens", "capped, %",
    )  # fmt: skip
    caption = (
        f"{accuracy.n} problems; differences from {base.name!r}, paired by problem, with 95 % "
        "intervals over problems"
    )
    return table(rows, header, caption)


def _cells(arm: Arm, one: Comparison | None) -> tuple[Any, ...]:
    """A condition's line; the base has no comparison."""
    accuracy, tokens = arm.accuracy().mean, arm.tokens().mean
    capped = np.mean([result.capped for result in arm.results])
    assert accuracy is not None
    assert tokens is not None
    return (
        arm.name,
        round(100 * accuracy, 1),
        "" if one is None else interval(one.difference, 100.0),
        "" if one is None else one.mended,
        "" if one is None else one.broken,
        "" if one is None else f"{one.adjusted:.2g}",
        round(tokens),
        "" if one is None else interval(one.tokens),
        round(100 * float(capped), 1),
    )
