"""Files that stay whole when the process is killed, by atomic replacement; JSON lines."""

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
    """Yields a temporary path, and moves that file to `path` if the block succeeds.

    If the block fails, the old file stays as it was.

    Raises:
        OSError: If the disk is full; the message names the path and the free space.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(path):
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.{_writer()}.", suffix=PARTIAL
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with naming_full_disk(path):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Adds the file's path and the free space to an error about a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM or error.__cause__ is not None:  # an inner block named it
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"{path}: {os.strerror(error.errno)} ({free / 1e6:.1f} MB free on its disk); all "
            "earlier data is intact: free some space and run the same again",
        ) from error


def _writer() -> str:
    return f"{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())}+{os.getpid()}"


def remove_abandoned(folder: str | Path) -> None:
    """Removes the temporary files that killed processes on this machine left behind.

    Temporary files of another machine stay, because its process may still be writing them.
    """
    if os.name != "posix":  # `_is_alive` needs POSIX signals
        return
    host = _writer().split("+")[0]
    for temporary in Path(folder).glob(f".*{PARTIAL}"):
        writer = re.search(r"\.([A-Za-z0-9-]+)\+(\d+)\.[^.]+" + re.escape(PARTIAL), temporary.name)
        if writer and writer[1] == host and not _is_alive(int(writer[2])):
            temporary.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process exists, but belongs to another user
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file completely; if that fails, the old file stays."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file; an undefined number must be None, because JSON lacks NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON-lines file completely; if that fails, the old file stays."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def read_utf8(path: Path, encoding: str = "utf-8") -> str:
    """A file's text as it stands, its line ends included.

    Raises:
        ValueError: If the file is not in UTF-8; the message names it.
    """
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file of objects; blank lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not a JSON object; the message names the first such line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a JSON-lines file")
    rows = []
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}): "
                f"{line[:60]!r}; expected one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: a {type(row).__name__}, expected a JSON object with "
                "named fields"
            )
        rows.append(row)
    return rows
