"""The tables of a comparison of two groups of traces."""

from collections.abc import Mapping, Sequence

import numpy as np

from mi_lens.common.statistics import estimate_mean
from mi_lens.evaluation.group_accuracy import Outcomes
from mi_lens.evaluation.thought_contrast import Part, ThoughtContrast
from mi_lens.evaluation.two_groups import Contrast, Pairing, problem_key
from mi_lens.evaluation.word_rates import WordRate, WordRates
from mi_lens.report.tables import Cell, Table, estimate, number, p_value, text
from mi_lens.report.trace_groups import Group
from mi_lens.traces.text_pieces import Unit, length_in

SIGNIFICANT = 0.05
FAMILY = (
    "p: two-sided, from permuting the groups of the traces {within}; adjusted for all rows of the "
    "table (Westfall and Young)."
)


def groups_table(groups: Sequence[Group], outcomes: Sequence[Outcomes], unit: Unit) -> Table:
    """What each group holds; its means are over all of its problems."""
    rows = []
    for group, right in zip(groups, outcomes, strict=True):
        by_problem: dict[str, list[int]] = {}
        for trace in group.traces:
            by_problem.setdefault(problem_key(trace), []).append(length_in(unit, trace))
        lengths = estimate_mean([float(np.mean(of_problem)) for of_problem in by_problem.values()])
        known = [outcome for outcome in right if outcome is not None]
        models = group.models
        rows.append(
            [
                text(group.name),
                number(len(group.traces), 0),
                number(group.problems, 0),
                text(models[0] if len(models) == 1 else f"{len(models)} models"),
                number(group.cut_off, 0),
                estimate(lengths, ".0f"),
                number(len(known), 0),
                number(sum(known) if known else None, 0),
            ]
        )
    return Table(
        "The groups",
        (
            "group",
            "traces",
            "problems",
            "model",
            "cut off",
            f"{unit} (95 %)",
            "outcome known",
            "right",
        ),
        rows,
        "Cut off: traces that are known to have been cut off by a budget or a context; of an "
        f"imported text that nobody said it of, it is not known. {unit.capitalize()}: mean over "
        "the traces of each problem, then over all problems of the group.",
    )


def words_table(compared: WordRates, names: tuple[str, str], caption: str, most: int) -> Table:
    """Words with their rates; those beyond the first `most` are folded."""
    rows = [_word_row(row) for row in compared.rows]
    return Table(
        caption,
        (
            "word",
            *(f"{name} (95 %)" for name in names),
            "difference (95 %)",
            "ratio (95 %)",
            "p",
            "adjusted",
        ),
        rows[:most],
        f"Occurrences per 1,000 {compared.unit}, upper and lower case alike: mean over the traces "
        "of each problem, then over problems, with bootstrap intervals over problems. Where a "
        "group never writes a word, its zero has no interval. "
        + FAMILY.format(within=_within(compared.pairing)),
        folded=rows[most:],
        folded_as=f"{len(rows) - most} more words",
    )


def _word_row(row: WordRate) -> list[Cell]:
    return [text(row.word), *_contrast_cells(row.per_thousand, 2, ratio=True)]


def _contrast_cells(contrast: Contrast, digits: int, *, ratio: bool) -> list[Cell]:
    return [
        estimate(contrast.first, f".{digits}f"),
        estimate(contrast.second, f".{digits}f"),
        estimate(contrast.difference, f"+.{digits}f"),
        *([estimate(contrast.ratio, ".2f")] if ratio else []),
        p_value(contrast.p_value),
        p_value(contrast.p_adjusted),
    ]


def thoughts_table(
    parts: Mapping[Part, ThoughtContrast], names: tuple[str, str], caption: str
) -> Table:
    """Thoughts per trace by class, among all traces and among those (not) cut off."""
    rows = [
        [
            text(part),
            text(name),
            text(f"{contrast.traces[0]} and {contrast.traces[1]}"),
            text(pairing_in_words(contrast.pairing)),
            *_contrast_cells(compared, 1, ratio=False),
        ]
        for part, contrast in parts.items()
        if part == "all" or contrast.traces != parts["all"].traces
        for name, compared in contrast.classes.items()
    ]
    return Table(
        caption,
        (
            "part",
            "class",
            "traces",
            "compared",
            *(f"{name} (95 %)" for name in names),
            "difference (95 %)",
            "p",
            "adjusted",
        ),
        rows,
        "Thoughts per trace, by SEAL's keywords, in the text alone: mean over the traces of each "
        "problem, then over the compared problems, with bootstrap intervals over them. A text "
        "without a think block counts from its first blank line on. Traces that were cut off are "
        "longer, so both parts are compared apart where there are both. p as for words, adjusted "
        "for the three classes.",
    )


def pairing_in_words(pairing: Pairing) -> str:
    """How a comparison is paired: "7 problems, paired", "4 and 9 problems, not paired"."""
    a, b = pairing.problems
    if pairing.paired_by is None:
        return f"{a} and {b} problems, not paired"
    same = " and model" if pairing.paired_by == "problem and model" else ""
    return f"{a} problem{'' if a == 1 else 's'}, paired by problem{same}"


def _within(pairing: Pairing) -> str:
    if pairing.paired_by is None:
        return "of whole problems, since nothing is paired"
    return f"within each {pairing.paired_by}"
