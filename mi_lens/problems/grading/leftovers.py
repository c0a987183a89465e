"""What a program leaves behind: processes, and a folder that is made to be hard to remove."""

import contextlib
import os
import secrets
import subprocess
import time
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def kill_all_of(user: int) -> None:
    """Kills all processes of a user; the caller is root."""
    subprocess.run(
        ["sh", "-c", "kill -9 -1"],  # -1: all that the user may send a signal to
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        stderr=subprocess.DEVNULL,  # where it says that there is none
        check=False,
    )


def remove_folder(folder: Path, seconds: float = 2.0) -> str | None:
    """Removes a folder and whatever a program has made of it.

    It follows no link, and does not recurse: folders may be nested deeper than Python can call or
    a path can name. A program that is being killed may still write; the removal is tried again for
    some seconds.

    Returns:
        Why it could not be removed in this time; None if it is gone.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with contextlib.suppress(FileNotFoundError):  # the program has removed it
                _remove(folder)
            return None
        except OSError as error:
            if time.monotonic() > deadline:
                return str(error)
            time.sleep(0.01)


def _remove(folder: Path) -> None:
    """Moves all nested folders up into the folder, level by level, until it is empty."""
    top = os.open(folder, FOLDER)
    try:
        while names := os.listdir(top):
            for name in names:
                if not _unlinked(name, top):
                    _remove_level(name, top)
    finally:
        os.close(top)
    os.rmdir(folder)


def _remove_level(name: str, top: int) -> None:
    inside = _opened(name, top)
    try:
        for child in os.listdir(inside):
            if not _unlinked(child, inside):
                os.close(_opened(child, inside))  # a folder without rights cannot be moved
                os.rename(child, secrets.token_hex(8), src_dir_fd=inside, dst_dir_fd=top)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=top)


def _unlinked(name: str, parent: int) -> bool:
    """Unlinks a file; False if it is a folder."""
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        return False
    return True


def _opened(name: str, parent: int) -> int:
    """Opens a folder, after its owner got all rights to it."""
    handle = os.open(name, FOLDER | os.O_PATH, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # by its handle: a name may become a link
        return os.open(".", FOLDER, dir_fd=handle)
    finally:
        os.close(handle)
