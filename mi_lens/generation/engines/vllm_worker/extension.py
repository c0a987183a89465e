"""What vLLM's worker processes are asked for from outside; all that goes over the wire is JSON."""

import json
import socket
from typing import Any

import torch

from mi_lens.generation.engines.vllm_worker.held import Held
from mi_lens.generation.engines.vllm_worker.loop import WorkerLoop
from mi_lens.generation.engines.vllm_worker.measuring import MeasuringExtension, Readings
from mi_lens.generation.engines.vllm_worker.parent import end_with
from mi_lens.generation.engines.vllm_worker.wire import KEY
from mi_lens.generation.jobs import Job
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.loading import load_outline


class WorkerExtension(MeasuringExtension):
    """Methods that vLLM adds to its worker class; each process answers for itself."""

    model_runner: Any

    def mi_lens_begin(self, settings: str) -> str:
        """Puts our loop into this worker.

        Args:
            settings: The checkpoint, its kind of think block, the ids that end a generation, and
                the host and process that ask: this worker ends when they do.

        Returns:
            A JSON object: which layers lie here, and how far a text may go.
        """
        from vllm.distributed.parallel_state import (  # pyright: ignore[reportMissingImports]
            get_tp_group,
        )

        given = json.loads(settings)
        executor = self.model_runner.parallel_config.distributed_executor_backend
        # Ray ends the workers of a process that is gone, and what runs above them is Ray's.
        if executor != "ray" and given["host"] == socket.gethostname():
            end_with(given["process"])
        runner = self.model_runner
        outline = load_outline(given["checkpoint"], "auto", given["think"])
        outline.cfg.dtype = runner.model_config.dtype
        self.mi_lens_requests = _Requests(runner, outline)
        self.mi_lens_loop = WorkerLoop(
            runner, self.mi_lens_requests.hold, frozenset(given["end_ids"])
        )
        self.mi_lens_readings = self.mi_lens_requests.readings = Readings(
            outline, self.mi_lens_loop.unembed, get_tp_group().is_first_rank
        )
        self.mi_lens_watch()
        return json.dumps({"layers": list(self.mi_lens_loop.layers.blocks)})

    def mi_lens_watch(self) -> None:
        """Lets the loop act before and after every layer."""
        layers = self.mi_lens_loop.layers
        layers.watch(layers.blocks, self.mi_lens_loop.act)

    def mi_lens_conditions(self, conditions: str) -> str:
        """Takes conditions by their names, which requests then refer to; answers null."""
        self.mi_lens_requests.take(json.loads(conditions))
        return "null"

    def mi_lens_ended(self, requests: str) -> str:
        """Forgets requests, and gives what actions noted on each: a list of events, or an error."""
        ended = (self.mi_lens_loop.held.pop(name, None) for name in json.loads(requests))
        return json.dumps(
            [None if held is None else [held.failure, held.job.row.events] for held in ended]
        )


class _Requests:
    """Makes jobs of what vLLM knows of a request."""

    readings: Readings  # Holds the requests that are read to be measured.

    def __init__(self, runner: Any, outline: Any):
        self.runner, self.outline = runner, outline
        self._conditions: dict[str, tuple[tuple[Action, ...], Sampling]] = {}

    def take(self, conditions: dict[str, Any]) -> None:
        with torch.inference_mode():
            for name, settings in conditions.items():
                condition = Condition.from_json(settings)
                bound = (part.bind(self.outline) for part in condition.interventions)
                self._conditions[name] = tuple(bound), condition.sampling

    def hold(self, name: str) -> Held:
        state = self.runner.requests[name]
        given = state.sampling_params.extra_args[KEY]
        ids, prefix = tuple(state.prompt_token_ids), given.get("prefix", 0)
        if "names" in given:
            return self.readings.hold(ids, given, self._conditions[given["condition"]][0])
        prompt_ids = ids[: len(ids) - prefix]
        row = Row(
            self.outline.tokenizer,
            prompt_ids,
            given["seed"],
            given["limit"],
            list(ids[len(prompt_ids) :]),
        )
        actions, sampling = self._conditions[given["condition"]]
        context = self.runner.max_model_len
        job = Job(given["index"], row, sampling, actions, (), context)
        return Held(job, len(ids), is_trial=given["trial"])
