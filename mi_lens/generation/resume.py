"""Generation into a file: after an interruption, only the missing traces are generated."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from mi_lens.common.records import append_record, continue_records
from mi_lens.common.writing import only_writer
from mi_lens.generation.generate import Finished, stream
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import Traces, trace_from_row, trace_to_row


def generate_into(
    folder: Path | None,
    plan: Plan,
    requests: Sequence[Request],
    *,
    batch_size: int,
    progress: bool = True,
    on_finished: Callable[[Finished], object] = lambda finished: None,
) -> list[Trace]:
    """Generates traces into a folder's traces.jsonl; each is on disk before the next is awaited.

    Traces that are there already are not generated again.

    Args:
        folder: Where traces.jsonl is; None keeps traces in memory only.
        plan: Of the model.
        requests: What to generate. Equal requests are generated once.
        batch_size: How many rows are decoded together; changes speed and memory, not tokens.
        progress: See `generate`.
        on_finished: Called with each new trace once it is on disk.

    Returns:
        A trace for every request, in their order.

    Raises:
        ValueError: If there is a folder and the user's hooks have no name; or for the reasons of
            `stream`.
        FileExistsError: If another process or thread writes to the folder.
    """
    plan.hooks.check(folder)
    with nullcontext() if folder is None else only_writer(folder):
        path = None if folder is None else folder / "traces.jsonl"
        done = {}
        if path is not None:
            done = {row["id"]: trace_from_row(row) for row in continue_records(path)}
        ids = list(map(plan.trace_id, requests))
        asked = dict(zip(ids, requests, strict=True))
        if todo := [request for id_, request in asked.items() if id_ not in done]:
            for finished in stream(plan, todo, batch_size=batch_size, progress=progress):
                if path is not None:
                    append_record(path, trace_to_row(finished.trace))
                done[finished.trace.id] = finished.trace
                on_finished(finished)
    return Traces(
        done[id_].under(request.condition.interventions)
        for id_, request in zip(ids, requests, strict=True)
    )
