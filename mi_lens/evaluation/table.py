"""The paired table of conditions: its columns, and the table as text and as HTML.

The columns are defined in one list, which the page of `mi_lens.report` uses too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mi_lens.common.html import table
from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.comparison import Arm, Comparison, compare_all

Value = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """One column of the paired table.

    Attributes:
        heading: Name and unit of the column.
        value: Computes the value for a condition, from its results and their comparison with the
            base (None for the base itself). A value of None leaves the cell empty.
        decimals: Number of decimals; None gives two significant digits, for p-values.
        scale: Factor of the numbers: 100 for percent and points.
        sign: Whether positive numbers have a plus sign.
        brief: How much of the value the text and the notebook's table show, which have less room
            than the page: all, the mean without its interval, or nothing.
    """

    heading: str
    value: Callable[[Arm, Comparison | None], Value]
    decimals: int | None = 0
    scale: float = 1.0
    sign: bool = False
    brief: Literal["all", "mean", "nothing"] = "all"

    @property
    def form(self) -> str:
        """The format of the column's numbers, such as "+.1f"."""
        if self.decimals is None:
            return ".2g"
        return f"{'+' if self.sign else ''}.{self.decimals}f"

    def brief_value(self, arm: Arm, comparison: Comparison | None) -> Value:
        """The value for a condition in the text and in the notebook's table."""
        value = self.value(arm, comparison)
        return value.mean if isinstance(value, Estimate) and self.brief == "mean" else value

    def text(self, value: Value) -> str:
        """A value as text."""
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, Estimate):
            return value.in_form(self.form, self.scale)
        return f"{self.scale * value:{self.form}}"

    def cell(self, value: Value) -> str | int | float:
        """A value for `mi_lens.common.html.table`: rounded numbers stay numbers."""
        if self.decimals is None or not isinstance(value, int | float):
            return self.text(value)
        return round(self.scale * value, self.decimals or None)


def _compared(value: Callable[[Comparison], Value]) -> Callable[[Arm, Comparison | None], Value]:
    """The value of a column that needs a comparison; None for the base, which has none."""
    return lambda _, comparison: None if comparison is None else value(comparison)


def powers(comparison: Comparison) -> str:
    """The power for a gain of five points at each share of changed answers, as text."""
    shown = (f"{power:.2f} ({100 * share:g} %)" for share, power in comparison.power.items())
    return ", ".join(shown)


COLUMNS = (
    Column("condition", lambda arm, _: arm.name),
    Column("problems", lambda arm, _: len(arm.by_problem()), brief="nothing"),
    Column("accuracy, %", lambda arm, _: arm.accuracy(), 1, 100.0, brief="mean"),
    Column("difference, points", _compared(lambda c: c.difference), 1, 100.0, sign=True),
    Column("verdict", _compared(lambda c: c.verdict)),
    Column("mended", _compared(lambda c: c.mended)),
    Column("broken", _compared(lambda c: c.broken)),
    Column("p", _compared(lambda c: c.p_value), None, brief="nothing"),
    Column("p (Holm)", _compared(lambda c: c.adjusted), None),
    Column("tokens", lambda arm, _: arm.tokens().mean),
    Column("difference, tokens", _compared(lambda c: c.tokens), 1, sign=True),
    Column("passes", lambda arm, _: arm.passes().mean, brief="nothing"),
    Column("capped, %", lambda arm, _: float(np.mean([r.capped for r in arm.results])), 1, 100.0),
    Column("power", _compared(powers), brief="nothing"),
    Column("problems needed", _compared(lambda c: c.needed), brief="nothing"),
)
BRIEF = tuple(column for column in COLUMNS if column.brief != "nothing")


def report(arms: Sequence[Arm], base: Arm) -> str:
    """The paired table, the parts of every difference, and the power of the tests, as text."""
    comparisons = compare_all(arms, base)
    rows = zip([base, *arms], [None, *comparisons], strict=True)
    cells = [[c.text(c.brief_value(arm, comparison)) for c in BRIEF] for arm, comparison in rows]
    lines = [
        f"{base.accuracy().n} problems, {len(base.results)} traces a condition; differences from "
        f"{base.name!r}, paired by problem, 95 % intervals over problems",
        "",
        *_aligned([[c.heading for c in BRIEF], *cells]),
        "",
        "Difference in accuracy (points) by part of the problems, and within a budget:",
    ]
    for comparison in comparisons:
        parts = [
            f"{name} {part.in_form('+.1f', 100.0)} [{part.n}]"
            for name, part in comparison.split.items()
        ]
        parts += [
            f"within {budget} tokens {100 * difference:+.1f}"
            for budget, difference in comparison.within.items()
        ]
        lines.append(f"  {comparison.name}: " + "; ".join(parts))
    lines += ["", "Power:"]
    for comparison in comparisons:
        needed = comparison.needed
        enough = f"{needed} problems would be needed" if needed else "no difference seen"
        lines.append(
            f"  {comparison.name}: a gain of 5 points would be found with probability "
            f"{powers(comparison)} if so many answers change; to find the difference seen with "
            f"probability .8, {enough}"
        )
    return "\n".join(lines)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text: the first column is left-aligned, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]


def report_table(arms: Sequence[Arm], base: Arm) -> str:
    """The paired table as HTML, for a notebook."""
    rows = zip([base, *arms], [None, *compare_all(arms, base)], strict=True)
    cells = [[c.cell(c.brief_value(arm, comparison)) for c in BRIEF] for arm, comparison in rows]
    caption = (
        f"{base.accuracy().n} problems; differences from {base.name!r}, paired by problem, with "
        "95 % intervals over problems"
    )
    return table(cells, [column.heading for column in BRIEF], caption)
