"""A sweep on many devices and machines, by Ray.

One worker a device, each with its own process and model, takes the next unit when it is done with
one. A worker that is lost is replaced and its unit run again: what the unit had written stays. All
workers must see the sweep's folder (a shared file system where there are several machines).
"""

from collections import Counter, deque
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.runs.sweep import Unit, Worker, open_sweep, raise_failed, results, waiting
from mi_lens.runs.sweep_spec import Spec

ATTEMPTS = 3  # of a unit whose workers are lost


def run_sweep_on_ray(
    spec: Spec,
    folder: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Evaluation]:
    """Runs a sweep on a Ray cluster; the results are those of `run_sweep`.

    Args:
        spec: What to run.
        folder: Seen by all workers under this path.
        workers: How many; None takes one a GPU of the cluster, or one a CPU where it has no GPU.
        address: Of a running cluster; None uses the one that this process is connected to, or
            starts one on this machine.

    Raises:
        ImportError: If Ray is not installed.
        RuntimeError: At the end, if units failed, or lost their workers several times.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import (  # pyright: ignore[reportMissingImports]
            RayActorError,
            RayTaskError,
        )
    except ImportError:
        raise ImportError("Ray is not installed; pip install 'mi-lens[ray]'") from None
    problems = len(Worker(spec).problems)
    open_sweep(spec, folder)
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = workers or gpus or int(resources.get("CPU", 1))
    remote: Any = ray.remote(num_gpus=1 if gpus else 0, num_cpus=1)(Worker)
    todo = deque(waiting(spec, folder.absolute(), problems))
    failed: list[str] = []
    attempts: Counter[Unit] = Counter()
    running: dict[Any, tuple[Any, Unit]] = {}

    def give(actor: Any) -> None:
        unit = todo.popleft()
        attempts[unit] += 1
        running[actor.run.remote(unit)] = actor, unit

    with tqdm(total=len(todo), desc="units", unit="unit", disable=None) as bar:
        for _ in range(min(count, len(todo))):
            give(remote.remote(spec))
        while running:
            (ended,), _ = ray.wait(list(running), num_returns=1)
            actor, unit = running.pop(ended)
            try:
                ray.get(ended)
                bar.update()
            except RayActorError as error:
                actor = remote.remote(spec)
                if attempts[unit] < ATTEMPTS:
                    todo.append(unit)
                else:
                    failed.append(f"{unit.folder.name}: lost {ATTEMPTS} workers: {error}")
            except RayTaskError as error:
                failed.append(f"{unit.folder.name}: {error.cause}")
            if todo:
                give(actor)
            else:
                ray.kill(actor)
    raise_failed(failed)
    return results(folder)
