"""Files that survive a kill: atomic replacement, and JSON lines that are appended whole."""

import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place only if the block succeeds.

    Raises:
        OSError: Naming the path and the room left, if the disk is full; the old file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_named(path):
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.{_writer()}.", suffix=PARTIAL
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with room_named(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def room_named(path: Path) -> Iterator[None]:
    """An error for want of room on the disk says inside which file it was, and what is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM or error.__cause__ is not None:  # named further in
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"{path}: {os.strerror(error.errno)} ({free / 1e6:.1f} MB free on its disk); what was "
            "written before it is whole: make room and run the same again",
        ) from error


def _writer() -> str:
    return f"{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())}+{os.getpid()}"


def remove_abandoned(folder: str | Path) -> None:
    """Removes the temporary files of processes of this machine that were killed.

    Those of another machine stay: whether it still writes cannot be told from here.
    """
    if os.name != "posix":  # elsewhere one cannot ask whether a process lives
        return
    host = _writer().split("+")[0]
    for temporary in Path(folder).glob(f".*{PARTIAL}"):
        made = re.search(r"\.([A-Za-z0-9-]+)\+(\d+)\.[^.]+" + re.escape(PARTIAL), temporary.name)
        if made and made[1] == host and not _lives(int(made[2])):
            temporary.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole text file, or leaves the old one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file; refuses NaN and infinity, which JSON lacks: None says "undefined"."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a whole JSON-lines file, or leaves the old one."""
    write_text(path, "".join(map(_line, rows)))


def append_jsonl(path: str | Path, row: dict[str, Any]) -> None:
    """Appends one row and returns when it is on disk.

    Raises:
        OSError: If the disk is full; the rows before are there, and no part of this one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = memoryview(_line(row).encode())
    with room_named(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:  # an interrupt too: a part of a line would spoil the next one
            file.truncate(before)
            raise


def drop_torn_line(path: str | Path) -> None:
    """Removes what a killed `append_jsonl` left: bytes after the last newline."""
    path = Path(path)
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file of objects; blank lines are passed over.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming the first line that is not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a JSON-lines file")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}): "
                f"{line[:60]!r}; expected one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: a {type(row).__name__}, expected a JSON object with "
                "named fields"
            )
        rows.append(row)
    return rows


def whole_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without a last line that is still being written.

    Nothing is changed on disk. A file that is not there yet has no rows.
    """
    path = Path(path)
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines() if line]


def read_record(folder: str | Path, name: str = "run.json") -> dict[str, Any]:
    """What produced a folder, as its run.json (or another record) says.

    Raises:
        FileNotFoundError: If there is no such folder or no such record in it.
        ValueError: If the record is not a JSON object.
    """
    path = Path(folder) / name
    if not path.is_file():
        missing = "holds no run of mi-lens" if Path(folder).is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder}: {missing} (no {name}); give the --out of a mi-lens command"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: a {type(record).__name__}, expected a JSON object")
    return record
