"""Run folders: what produced them stands in run.json, and a killed run continues where it was."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_lens.common.files import append_jsonl, drop_torn_line, remove_abandoned, write_json
from mi_lens.common.provenance import versions
from mi_lens.config import GenerateConfig
from mi_lens.generation import Finished, Plan, Request, stream
from mi_lens.traces.trace import Trace, load_traces, trace_to_row

# These change where and how fast results come, not what they are.
IMMATERIAL = ("out", "batch_size")


def open_run(config: GenerateConfig, model_name: str) -> Path:
    """Begins a run folder, or takes up the one that the same run began.

    Args:
        config: What to do; `config.out` is the folder.
        model_name: The model's fingerprint.

    Raises:
        FileExistsError: If the folder holds something else; nothing in it is touched, except for
            temporary files of processes of ours that were killed.
    """
    folder = config.out
    described = asdict(config)
    run = {
        "command": type(config).__name__.removesuffix("Config").lower(),
        "config": {k: v for k, v in described.items() if k not in IMMATERIAL},
        "model": model_name,
        "versions": versions(),
    }
    run = json.loads(json.dumps(run))
    record = folder / "run.json"
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file; give a folder that does not exist yet")
    for part in (folder, folder / "figures"):
        remove_abandoned(part)
    if record.exists():
        changed = _differences(json.loads(record.read_text(encoding="utf-8")), run)
        if changed:
            raise FileExistsError(
                f"{folder}: holds another run ({'; '.join(changed)}); give another --out, or "
                "remove that folder"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: exists, is not empty and holds no run of mi-lens; give another --out"
        )
    else:
        write_json(record, run)
    return folder


def _differences(old: dict[str, Any], new: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{path}{key}.")
        elif a != b:
            found.append(f"{path}{key} was {a!r}, now {b!r}")
    return found


def generate_into(
    folder: Path | None,
    model,
    requests: Sequence[Request],
    *,
    batch_size: int,
    progress: bool = True,
    on_finished: Callable[[Finished], object] = lambda finished: None,
) -> list[Trace]:
    """Generates traces into a folder's traces.jsonl, each on disk before the next is waited for.

    Traces that are there already are not generated again.

    Args:
        folder: None keeps traces in memory only.
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        requests: Of equal ones, one is generated.
        batch_size: Rows decoded together; changes speed and memory, not tokens.
        progress: Shows a bar on a terminal's stderr.
        on_finished: Called with each new trace once it is on disk.

    Returns:
        A trace for every request, in their order.
    """
    path = None if folder is None else folder / "traces.jsonl"
    done = {}
    if path is not None and path.exists():
        drop_torn_line(path)
        done = {trace.id: trace for trace in load_traces(path)}
    ids = list(map(Plan(model).trace_id, requests))
    waiting = {id_: r for id_, r in zip(ids, requests, strict=True) if id_ not in done}
    if waiting:
        todo = list(waiting.values())
        for finished in stream(model, todo, batch_size=batch_size, progress=progress):
            if path is not None:
                append_jsonl(path, trace_to_row(finished.trace))
            done[finished.trace.id] = finished.trace
            on_finished(finished)
    return [done[id_] for id_ in ids]
