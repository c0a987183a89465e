"""Requests under way on vLLM: what it is given of each, and what comes back."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from mi_lens.common.provenance import content_hash
from mi_lens.generation.engines.vllm_worker.wire import KEY
from mi_lens.generation.jobs import Job
from mi_lens.interventions.condition import Condition

_numbers = count()  # A name of a request is given once a process.


class Running:
    """Jobs that vLLM runs.

    Args:
        engine: vLLM's engine.
        ask: Asks every worker for a method with something that JSON can hold.
        name_of: The name by which every worker knows a condition.
        end_ids: The tokens that end a generation.

    Attributes:
        jobs: The jobs by the names of their requests.
    """

    def __init__(
        self,
        engine: Any,
        ask: Callable[[str, Any], list[Any]],
        name_of: Callable[[Condition], str],
        end_ids: frozenset[int],
    ):
        self.engine, self.end_ids = engine, end_ids
        self.jobs: dict[str, Job] = {}
        self._ask, self._name_of = ask, name_of
        self._began: dict[str, tuple[Condition, int]] = {}
        self._inner: dict[str, str] = {}  # The names that requests go by in the workers.
        self._conditions: dict[int, tuple[Condition, str]] = {}

    def add(
        self, job: Job, condition: Condition, *, trial: bool = False, prefix: int | None = None
    ) -> None:
        """Gives vLLM a request.

        Args:
            job: The request's job.
            condition: Its condition.
            trial: Whether it is there to try the model's layers.
            prefix: How many tokens it began with, if it goes on from a later step.
        """
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import (  # pyright: ignore[reportMissingImports]
            RequestOutputKind,
        )

        row = job.row
        prefix = len(row.token_ids) if prefix is None else prefix
        job.context = min(job.context, self.engine.model_config.max_model_len)
        extra = {
            "condition": self._condition(condition),
            "index": job.index,
            "limit": row.limit,
            "prefix": prefix,
            "seed": row.seed,
            "trial": trial,
            "stops": job.stops if job.tries else (),
            "again": {
                "written": len(row.token_ids) - prefix,
                "forced": list(row.forced),
                "events": row.events,
            },
        }
        prompt: dict[str, Any] = {"prompt_token_ids": [*row.prompt_ids, *row.token_ids]}
        if any(action.hook_names or action.recycled_layer is not None for action in job.actions):
            # Keys and values of changed states are for this request alone.
            prompt["cache_salt"] = content_hash(extra)
        ends, most = self.end_ids, job.context - len(prompt["prompt_token_ids"])
        if not job.tries:
            ends = ends | {stop for stop in job.stops if isinstance(stop, int)}
            most = row.limit - len(row.token_ids)
        sampling = SamplingParams(
            temperature=0,
            max_tokens=most,
            stop_token_ids=sorted(ends),
            ignore_eos=True,  # vLLM would add those that it finds.
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={KEY: extra},
        )
        name = f"{KEY}-{next(_numbers)}"
        self.jobs[name] = job
        self._began[name] = condition, prefix
        self._inner[name] = self.engine.add_request(name, prompt, sampling)

    def step(self) -> list[Job]:
        """One step of vLLM's; takes what has ended out of what runs, and gives it back.

        A request that took tokens back is given to vLLM again, up to there.

        Raises:
            ValueError: If a worker could not go on with a request.
        """
        ended = self._accept()
        notes = self._notes(ended) if ended else []
        jobs = []
        for name, of_stages in zip(ended, notes, strict=True):
            job, (condition, prefix) = self.jobs.pop(name), self._began.pop(name)
            _take(job, of_stages)
            if job.stop_reason is None:
                self.add(job, condition, prefix=prefix)
            else:
                jobs.append(job)
        return jobs

    def forget(self) -> None:
        """Takes back what did not end."""
        from vllm.v1.engine.exceptions import (  # pyright: ignore[reportMissingImports]
            EngineDeadError,
        )

        names = [name for name in self.jobs if name in self._inner]  # others' notes were asked for
        self.jobs.clear()
        self._began.clear()
        if names:
            with suppress(EngineDeadError):
                self.engine.abort_request(names)
                self._notes(names)

    def _condition(self, condition: Condition) -> str:
        """The name of a condition, whose settings are hashed once."""
        if id(condition) not in self._conditions:
            self._conditions[id(condition)] = condition, self._name_of(condition)
        return self._conditions[id(condition)][1]

    def _accept(self) -> list[str]:
        """Runs a step; accepts its tokens, and gives the names of what has ended."""
        start = time.perf_counter()
        outputs = self.engine.step()
        share = (time.perf_counter() - start) / max(len(outputs), 1)
        ended, stopped = [], []
        for output in outputs:
            job = self.jobs[output.request_id]
            job.seconds += share
            if job.tries:  # Its worker knows what is only tried.
                ended += [output.request_id] if output.finished else []
                continue
            for token in output.outputs[0].token_ids:
                if job.stop_reason is None:
                    job.accept(token, self.end_ids)
            if job.stop_reason is not None:
                ended.append(output.request_id)
                if not output.finished:  # By a text, which vLLM does not look for.
                    stopped.append(output.request_id)
            elif output.finished:
                raise RuntimeError(
                    f"request {job.index}: vLLM gave it up after {job.row.step} tokens "
                    f"({output.outputs[0].finish_reason}); its messages say why"
                )
        if stopped:
            self.engine.abort_request(stopped)
        return ended

    def _notes(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """For each request what its workers noted: one worker of each stage of a pipeline."""
        answers = self._ask("mi_lens_ended", [self._inner.pop(name) for name in names])
        # Processes of one stage hold the same rows, and note the same.
        parallel = self.engine.vllm_config.parallel_config
        return list(zip(*answers[:: parallel.tensor_parallel_size], strict=True))


def _take(job: Job, of_stages: Sequence[Any]) -> None:
    """Puts what workers noted on a job: events of the first blocks come first."""
    failures = [note[0] for note in of_stages if note is not None and note[0]]
    if failures:
        raise ValueError(failures[0])
    if job.tries:
        _take_row(job, of_stages[0])
    events = [event for note in of_stages if note is not None for event in note[1]]
    written = len(job.row.token_ids)
    kept = [event for event in events if event["step"] < written]
    if len(of_stages) > 1:
        # The sort is stable, and the first step reads the whole prompt, whose steps are below 0.
        kept.sort(key=lambda event: max(event["step"], 0))
    for event in kept:
        if "last" in event:  # A token was read that a stop text made the last.
            event["last"] = min(event["last"], written - 1)
    job.row.events = kept


def _take_row(job: Job, note: Any) -> None:
    """Puts the row of a request with trials on its job, as its worker has it."""
    if note is None or note[2] is None:
        raise RuntimeError(f"request {job.index}: vLLM gave it up; its messages say why")
    row = note[2]
    job.row.token_ids, job.row.forced = row["token_ids"], deque(row["forced"])
    job.stop_reason = row["stop_reason"]
