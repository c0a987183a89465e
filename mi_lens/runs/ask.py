"""Asks the model for its answer along the traces of a run; writes each trace before the next."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_lens.common.progress import tracked
from mi_lens.common.records import append_record, continue_records
from mi_lens.information.per_trace.belief import (
    AnswerBelief,
    Belief,
    Every,
    answer_belief,
    belief_cost,
)
from mi_lens.models.model import Model
from mi_lens.traces.trace import Trace


def ask_into(
    folder: Path,
    model: Model,
    traces: Sequence[Trace],
    every: Every,
    asking: str | None,
    *,
    progress: bool = True,
) -> dict[str, Belief | None]:
    """Asks along traces, and keeps the beliefs in a folder's belief.jsonl.

    What it costs is told first. A trace that cannot be asked, as one that leaves no room for the
    question in the model's context, has no belief; its row says why.

    Returns:
        Trace id to belief, for every trace.

    Raises:
        OSError: If the disk is full; earlier traces are on disk.
    """
    path = folder / "belief.jsonl"
    done = {row["trace"]: belief_from_row(row["belief"]) for row in continue_records(path)}
    waiting = [trace for trace in traces if trace.id not in done]
    settings: dict[str, Any] = {"every": every, "asking": asking}
    reasons = {trace.id: _why_not(model, trace, settings) for trace in waiting}
    asked = [trace for trace in waiting if reasons[trace.id] is None]
    if progress and asked:
        print(f"answer belief: {belief_cost(model, asked, **settings)}", file=sys.stderr)
    if progress and len(asked) < len(waiting):
        why = next(filter(None, reasons.values()))
        lacking = f"{len(waiting) - len(asked)} of {len(waiting)} traces"
        print(f"answer belief: {lacking} cannot be asked; the first: {why}", file=sys.stderr)
    for trace in tracked(waiting, "ask", "trace", progress):
        why = reasons[trace.id]
        belief = answer_belief(model, [trace], **settings)[0] if why is None else None
        row = {"trace": trace.id, "belief": None if belief is None else asdict(belief), "why": why}
        append_record(path, row)
        done[trace.id] = belief
    return {trace.id: done[trace.id] for trace in traces}


def _why_not(model: Model, trace: Trace, settings: dict[str, Any]) -> str | None:
    """Why a trace cannot be asked, if it cannot."""
    try:
        belief_cost(model, [trace], **settings)
    except ValueError as error:
        return str(error)
    return None


def belief_from_row(row: dict[str, Any] | None) -> Belief | None:
    """The belief of a row of belief.jsonl."""
    if row is None:
        return None

    def answer(of: dict[str, Any] | None) -> AnswerBelief | None:
        return None if of is None else AnswerBelief(**_tuples(of))

    return Belief(**{**_tuples(row), "gold": answer(row["gold"]), "final": answer(row["final"])})


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
