"""The main findings of analyses, as one summary per hook name and as a table of text."""

from collections.abc import Mapping
from typing import Any

from mi_lens.runs.analysis import Analysis

FINDINGS = (  # Field of a summary, its label, its decimals.
    ("traces", "problems", 0),
    ("accuracy", "accuracy", 3),
    ("tokens", "tokens per trace", 0),
    ("mi", "mean MI", 4),
    ("mismatched", "with other answers", 4),
    ("peaks", "peaks per trace", 1),
    ("specific_peaks", "specific peaks", 2),
    ("interval", "steps between peaks", 1),
    ("aom", "AOM", 2),
)


def summary(analysis: Analysis, hook_name: str) -> dict[str, Any]:
    """`Analysis.summary`, mean MI with other problems' answers, and specific peaks per trace."""
    mismatch = analysis.controls(hook_name).mismatch
    return {
        **analysis.summary(hook_name),
        "mismatched": None if mismatch is None else mismatch.mi,
        "specific_peaks": None if mismatch is None else mismatch.peaks,
    }


def findings(analyses: Mapping[str, Analysis]) -> str:
    """The main findings at the first hook name as a short table of text, one column per model."""
    columns = [["", *(label for _, label, _ in FINDINGS), "words at peaks (lift)"]]
    for name, analysis in analyses.items():
        numbers_by_field = summary(analysis, analysis.hook_names[0])
        values = [numbers_by_field[field] for field, _, _ in FINDINGS]
        numbers = [
            "–" if value is None else f"{value:.{digits}f}"
            for value, (_, _, digits) in zip(values, FINDINGS, strict=True)
        ]
        rows = analysis.tokens[analysis.hook_names[0]].rows[:5]
        words = ", ".join(f"{row.word} ({row.lift:.1f})" for row in rows) or "none"
        columns.append([name, *numbers, words])
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
