"""Whether a process still writes to a folder: while it does, it holds a lock on a file there.

The operating system frees the lock when the process ends, however it ends. So the answer does not
rest on a process number, which another process may have by now.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


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
