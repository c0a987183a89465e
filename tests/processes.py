"""Fresh processes, for tests that kill them or measure their memory.

A process start costs seconds, because torch and TransformerLens are imported. So one process
imports everything once, without running any of it, and is forked for each use.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

FORKS = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
if FORKS:
    CONTEXT.set_forkserver_preload(
        [
            "mi_lens.cli",
            "mi_lens.models.backends.bridge",
            "mi_lens.models.backends.hooked",
            "mi_lens.models.pocket.training.train",
            "mi_lens.report.page",
            "mi_lens.runs.analyze",
            "mi_lens.runs.evaluate",
            "pydantic.type_adapter",
            "transformers.models.llama.modeling_llama",
            "transformers.models.qwen2.modeling_qwen2",
            "typeguard",
        ]
    )


def start(function: Callable[..., None], *args: Any) -> BaseProcess:
    """A process under way that calls an importable function, on one thread, and prints nothing."""
    process = CONTEXT.Process(target=_run, args=(function, args))
    process.start()
    return process


def result_of(function: Callable[..., Any], *args: Any) -> Any:
    """What an importable function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT, initializer=_one_thread) as pool:
        return pool.submit(function, *args).result()


def _run(function: Callable[..., None], args: tuple[Any, ...]) -> None:
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a kill would leave behind
    _one_thread()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    function(*args)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
