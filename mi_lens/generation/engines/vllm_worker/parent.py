"""Workers end with the process that began them, even if it was killed."""

import os
import signal
import threading
import time
from pathlib import Path

PAUSE = 0.5  # Seconds between two looks.


def end_with(process: int) -> None:
    """Ends this process, and vLLM's process above it, soon after another has ended.

    vLLM's own processes see that a process above them ends only if it ends in good order.

    Args:
        process: The id of a process on this machine, which may have ended already; this process
            itself is not watched.
    """
    above = os.getppid()
    if process != os.getpid():
        threading.Thread(target=_watch, args=(process, above), daemon=True).start()


def _watch(process: int, above: int) -> None:
    while _lives(process):
        time.sleep(PAUSE)
    if above != process and os.getppid() == above:
        os.kill(above, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent to ask how."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, IndexError):  # It is another user's, or the system has no such file.
        return True
    return state != "Z"
