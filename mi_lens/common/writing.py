"""Who writes to a folder: a process that does holds a lock on a file there.

The operating system frees the lock when the process ends, however it ends. So the answer does not
rest on a process number, which another process may have by now.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

LOCK = ".lock"
_held: dict[Path, int] = {}  # Folders that this process writes to alone, and the thread that does.


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lets no other process or thread write to a folder while the block does.

    Blocks of one thread may lie within each other. The lock of a process that has died is free.

    Raises:
        FileExistsError: If another process or thread writes there; the message names it.
    """
    folder = folder.resolve()
    if fcntl is None or _held.get(folder) == threading.get_ident():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise FileExistsError(
                f"{folder}: {owner} writes there now; wait until it has ended, or give another "
                "folder"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
        file.flush()
        _held[folder] = threading.get_ident()
        try:
            yield
        finally:
            del _held[folder]
            file.truncate(0)


@contextmanager
def writing(record: Path) -> Iterator[None]:
    """Holds a lock on a file of a folder, such as its run.json, while the block writes there.

    Several processes may hold it together. Nothing is refused: the lock only tells `is_written`.
    """
    with record.open("rb") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: `is_written` then cannot know
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def is_written(record: Path) -> bool | None:
    """Whether a process holds the lock of `writing` on a file; None if that cannot be known here.

    On a file system that several machines share, False speaks of this machine only.
    """
    if fcntl is None:
        return None
    with record.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return None
    return False
