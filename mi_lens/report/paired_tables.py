"""The page's tables of evaluations: conditions on the same problems."""

from collections.abc import Mapping, Sequence

import numpy as np

from mi_lens.common.statistics import Estimate
from mi_lens.evaluation.comparison import Comparison
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.evaluation.table import COLUMNS, Column, Value
from mi_lens.report.tables import Cell, Table, estimate, number, p_value, text
from mi_lens.report.unchanged import Unchanged


def comparison_table(
    evaluation: Evaluation, comparisons: Sequence[Comparison], same: Unchanged
) -> Table:
    """Every condition compared with the first, paired by problem."""
    base = evaluation.arm(evaluation.names[0])
    idle = {c.name for c in comparisons if len(same[c.name]) == c.problems}
    arms = [(base, None), *((evaluation.arm(c.name), c) for c in comparisons)]
    rows = {
        arm.name: [_cell(c, c.value(arm, comparison)) for c in COLUMNS] for arm, comparison in arms
    }
    return Table(
        f"Conditions against {base.name}, paired by problem",
        tuple(column.heading for column in COLUMNS),
        [row for name, row in rows.items() if name not in idle],
        "Brackets hold 95 % intervals over problems. Mended: answers that only the condition has "
        f"right. Broken: answers that only {base.name} has right. p: exact McNemar test, or with "
        "several seeds a sign-flip test, with Holm's correction over the table. Verdict: "
        "equivalent if the difference lies within five points (90 % interval), else better or "
        "worse if it is not zero (95 %), else open; not corrected for the number of conditions. "
        "Passes: forward passes of one token, with those of blocks run again and of trials. "
        "Power: the probability that this many problems show a gain of five points. Problems "
        "needed: how many problems show the observed difference with probability .8.",
        folded=[row for name, row in rows.items() if name in idle],
        folded_as=f"{_count(len(idle), 'condition')} with the same tokens as {base.name} on every "
        "problem",
    )


def _cell(column: Column, value: Value) -> Cell:
    if value is None or isinstance(value, str):
        return text(value)
    if isinstance(value, Estimate):
        return estimate(value, column.form, scale=column.scale)
    if column.decimals is None:
        return p_value(value)
    return number(value, column.decimals, scale=column.scale)


def parts_table(comparisons: Sequence[Comparison]) -> Table:
    """The difference by part: capped problems, finished problems, levels, budgets."""
    rows, folded = [], []
    for comparison in comparisons:
        n = comparison.problems
        parts = comparison.split | {
            f"within {budget} tokens": Estimate(gain, None, None, n)
            for budget, gain in comparison.within.items()
        }
        for name, part in parts.items():
            difference = estimate(part, "+.1f", scale=100.0)
            row = [text(comparison.name), text(name), number(part.n, 0), difference]
            # A zero with an interval has as many gains as losses; it did change something.
            zero = not any((part.mean, part.low, part.high))
            (folded if zero else rows).append(row)
    return Table(
        "The difference by part",
        ("condition", "part", "problems", "difference, points"),
        rows,
        "Capped before: problems whose trace under the first condition was cut off. Finished "
        "before: problems whose trace there ended by itself. A gain among capped problems is "
        "recovered truncation. Within a budget: both conditions are held to that many tokens.",
        folded=folded,
        folded_as=f"{_count(len(folded), 'part')} with a difference of zero",
    )


def problems_table(evaluation: Evaluation, same: Unchanged, links: Mapping[str, str]) -> Table:
    """Every problem under every condition.

    Args:
        evaluation: The results.
        same: Of every condition, the problems that it left unchanged.
        links: Trace id to the trace's address on the page, for the traces that are on it.
    """
    arms = [evaluation.arm(name).by_problem() for name in evaluation.names]
    rows, folded = [], []
    for key in arms[0]:
        first = arms[0][key][0]
        row = [text(first.problem), text(first.level)]
        for arm in arms:
            results = arm[key]
            right = float(np.mean([r.correct for r in results]))
            words = {0.0: "wrong", 1.0: "right"}.get(right, f"{100 * right:.0f} %")
            tokens = float(np.mean([r.length for r in results]))
            capped = " capped" if any(r.capped for r in results) else ""
            link = links.get(results[0].trace, "")
            row += [Cell(f"{words}{capped}", right, link=link), number(tokens, 0)]
        unchanged = bool(same) and all(key in problems for problems in same.values())
        (folded if unchanged else rows).append(row)
    heads = [head for name in evaluation.names for head in (name, "tokens")]
    return Table(
        "Results by problem",
        ("problem", "level", *heads),
        rows,
        tall=True,
        folded=folded,
        folded_as=f"{_count(len(folded), 'problem')} with the same tokens under every condition",
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
