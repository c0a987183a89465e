"""The main findings of analyses, as one summary per hook name and as a table of text."""

import re
from collections.abc import Mapping
from typing import Any

from mi_lens.information.per_trace.controls import others_needed
from mi_lens.runs.analysis import Analysis

FINDINGS = (  # Field of a summary, its label, its decimals.
    ("traces", "problems", 0),
    ("accuracy", "accuracy", 3),
    ("tokens", "tokens per trace", 0),
    ("mi", "mean MI", 4),
    ("mismatched", "with other answers", 4),
    ("peaks", "peaks per trace", 1),
    ("specific_peaks", "specific peaks", 2),
    ("chance_peaks", "of another answer", 2),
    ("interval", "steps between peaks", 1),
    ("aom", "AOM", 2),
)
UNCOMPARED = f"unknown: compared with fewer than 2 other answers, and it takes {others_needed()}"


def summary(analysis: Analysis, hook_name: str) -> dict[str, Any]:
    """`Analysis.summary`, mean MI with other problems' answers, and specific peaks per trace.

    "specific_peaks" is None, and "unknown" says why, if there are too few other answers to tell.
    "chance_peaks" are those of another problem's answer in the gold one's place.
    """
    mismatch = analysis.controls(hook_name).mismatch
    return {
        **analysis.summary(hook_name),
        "mismatched": None if mismatch is None else mismatch.mi,
        "specific_peaks": None if mismatch is None else mismatch.peaks,
        "chance_peaks": None if mismatch is None else mismatch.chance,
        "unknown": UNCOMPARED if mismatch is None else mismatch.unknown,
    }


def findings(analyses: Mapping[str, Analysis]) -> str:
    """The main findings at the last block as a short table of text, one column per model."""
    columns = [["", "hook name", *(label for _, label, _ in FINDINGS), "words at peaks (lift)"]]
    for name, analysis in analyses.items():
        hook_name = last_hook_name(analysis)
        found = summary(analysis, hook_name)
        numbers = [_shown(found, field, digits) for field, _, digits in FINDINGS]
        rows = analysis.tokens[hook_name].rows[:5]
        words = ", ".join(f"{row.word} ({row.lift:.1f})" for row in rows) or "none"
        columns.append([name, hook_name, *numbers, words])
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def last_hook_name(analysis: Analysis) -> str:
    """The hook name of the last block that was read; the last of the hook names within a block."""
    return max(reversed(analysis.hook_names), key=_block)


def _block(hook_name: str) -> int:
    """The number of a hook's block; -1 for a hook outside of the blocks."""
    match = re.match(r"blocks\.(\d+)\.", hook_name)
    return int(match[1]) if match else -1


def _shown(found: Mapping[str, Any], field: str, digits: int) -> str:
    """A number as text; for specific peaks that are unknown, why."""
    if found[field] is None:
        return found["unknown"] if field == "specific_peaks" else "–"
    return f"{found[field]:.{digits}f}"
