"""vLLM's processes, as the machine lists them."""

import time
from collections.abc import Sequence

import psutil


def vllm_processes(above: int | None = None) -> list[psutil.Process]:
    """The processes of vLLM below another, by what they call themselves; None is this process."""
    children = psutil.Process(above).children(recursive=True)
    return [child for child in children if "VLLM" in _called(child)]


def require_gone(processes: Sequence[psutil.Process], seconds: float = 20) -> None:
    """Asserts that processes end within a time; those that do not are killed."""
    until = time.monotonic() + seconds
    while (left := list(filter(_lives, processes))) and time.monotonic() < until:
        time.sleep(0.1)
    told = [_called(process) for process in left]
    for process in left:
        for each in [*process.children(recursive=True), process]:
            each.kill()
    assert not told, told


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _called(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
