"""What a run says: its tables and states, without what differs from one run to the next."""

import json
import re
from pathlib import Path
from typing import Any

from mi_lens.common.parquet import read_table
from mi_lens.states.shard import load_activations

TABLES = (".json", ".jsonl", ".safetensors", ".parquet")
Tables = dict[str, Any]


def record_files(folder: Path) -> list[Path]:
    """The files of a run that mi-lens holds itself to: tables and states, not figures or pages."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in TABLES and path.name[0] != "." and path.parent.name != "figures"
    ]


def tables(folder: Path) -> Tables:
    """Relative path to what a file says: without seconds, checksums and the order of lines.

    A file that cannot be read says why.
    """
    return {str(path.relative_to(folder)): _content(path) for path in record_files(folder)}


def difference(found: Tables, expected: Tables) -> str | None:
    """The files in which two runs differ, in one line; None if they say the same."""
    names = sorted(found.keys() | expected.keys())
    apart = [name for name in names if found.get(name) != expected.get(name)]
    if not apart:
        return None
    return ", ".join(f"{name} ({_how(found.get(name), expected.get(name))})" for name in apart)


def lasting(text: str) -> str:
    """What a reader printed, without times."""
    return re.sub(r"last write .*|left for one process: .*", "", text)


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return {name: state.tolist() for name, state in load_activations(path).items()}
        if path.suffix == ".parquet":
            return _lines(read_table(path))
        text = path.read_text(encoding="utf-8")
        return _lines(
            json.loads(row)
            for row in (text.split("\n")[:-1] if path.suffix == ".jsonl" else [text])
        )
    except ValueError as error:
        return f"unreadable: {error}"


def _lines(rows: Any) -> list[str]:
    return sorted(json.dumps(_timeless(row), sort_keys=True) for row in rows)


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if isinstance(value, dict):
        if isinstance(value.get("results"), str):  # the checksum of a table that holds seconds
            value = {**value, "results": ""}
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "checksum")}
    return value


def _how(found: Any, expected: Any) -> str:
    if found is None or expected is None:
        return "missing" if found is None else "not expected"
    if isinstance(found, str):
        return found[:200]
    if isinstance(found, list) and isinstance(expected, list) and len(found) != len(expected):
        return f"{len(found)} rows for {len(expected)}"
    return "other content"
