"""Runs a sweep on many devices and machines with Ray.

There is one worker per device, with its own process and model. A worker takes the next unit when it
has finished one. If a worker is lost, another replaces it and runs its unit again; the unit's
results so far are kept. All workers must see the sweep's folder, so several machines need a shared
file system.
"""

from collections import Counter, deque
from pathlib import Path
from typing import Any

from mi_lens.common.progress import Progress
from mi_lens.common.writing import writing
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.runs.sweep import Worker, raise_failed, require_fitting, results
from mi_lens.runs.sweep_folder import Unit, open_sweep, units, waiting
from mi_lens.runs.sweep_spec import Spec

CLOSING = 60  # Seconds that a worker has to free its model.
ATTEMPTS = 3  # Number of times that a unit is tried if its workers are lost.


def run_sweep_on_ray(
    spec: Spec,
    folder: Path,
    *,
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, Evaluation]:
    """Runs a sweep on a Ray cluster; the results are those of `run_sweep`.

    Args:
        spec: The sweep to run.
        folder: The sweep's folder; all workers must see it under this path.
        workers: Number of workers; None takes one per GPU of the cluster, or one per CPU if it has
            no GPU.
        address: Address of a running cluster; None uses the cluster that this process is connected
            to, or starts one on this machine.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: Before anything runs, if a condition does not fit a model.
        RuntimeError: At the end, if units failed, or lost their workers `ATTEMPTS` times.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import (  # pyright: ignore[reportMissingImports]
            RayActorError,
            RayTaskError,
        )
    except ImportError:
        raise ImportError("Ray is not installed; pip install 'mi-lens[ray]'") from None
    first = Worker(spec)
    problems = len(first.problems)
    require_fitting(spec, units(spec, folder, problems), first.problems)
    open_sweep(spec, folder, first.inputs)
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

    with writing(folder / "sweep.json"), Progress(len(todo), "sweep", "unit") as bar:
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
                ray.wait([actor.close.remote()], timeout=CLOSING)  # An engine has processes too.
                ray.kill(actor)
    raise_failed(failed)
    return results(folder)
