"""What vLLM's worker processes are asked for from outside; all that goes over the wire is JSON.

vLLM imports this module in each of its workers before it loads the model, and nowhere else.
"""

import json
import os
from collections import deque
from typing import Any

import torch

from mi_lens.generation.engines.vllm_worker.compiled import act_by
from mi_lens.generation.engines.vllm_worker.held import Held, has_left
from mi_lens.generation.engines.vllm_worker.layers import Layers
from mi_lens.generation.engines.vllm_worker.loop import WorkerLoop
from mi_lens.generation.engines.vllm_worker.measuring import MeasuringExtension, Readings
from mi_lens.generation.engines.vllm_worker.parent import end_with
from mi_lens.generation.engines.vllm_worker.wire import BEGAN_BY, KEY
from mi_lens.generation.jobs import Job
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.loading import load_outline

if BEGAN_BY in os.environ:
    end_with(int(os.environ[BEGAN_BY]))


class WorkerExtension(MeasuringExtension):
    """Methods that vLLM adds to its worker class; each process answers for itself."""

    model_runner: Any

    def mi_lens_begin(self, settings: str) -> str:
        """Puts our loop into this worker.

        Args:
            settings: The checkpoint, its kind of think block, the ids that end a generation, and
                whether the model was compiled.

        Returns:
            A JSON object: which layers lie here.
        """
        from vllm.distributed.parallel_state import (  # pyright: ignore[reportMissingImports]
            get_tp_group,
        )

        given = json.loads(settings)
        runner = self.model_runner
        layers = Layers(runner.model)  # Refuses a model before its outline is built.
        outline = load_outline(given["checkpoint"], "auto", given["think"])
        outline.cfg.dtype = runner.model_config.dtype
        outline.cfg.n_ctx = runner.max_model_len
        self.mi_lens_requests = _Requests(runner, outline)
        self.mi_lens_loop = WorkerLoop(
            runner, layers, self.mi_lens_requests.hold, frozenset(given["end_ids"])
        )
        self.mi_lens_readings = self.mi_lens_requests.readings = Readings(
            outline, self.mi_lens_loop.unembed, get_tp_group().is_first_rank
        )
        loop = self.mi_lens_loop
        if given["compiled"]:
            act_by(loop.act)
        else:
            layers.watch(layers.blocks, loop.act)
        return json.dumps({"layers": list(layers.blocks)})

    def mi_lens_conditions(self, conditions: str) -> str:
        """Takes conditions by their names, which requests then refer to; answers null."""
        self.mi_lens_requests.take(json.loads(conditions))
        return "null"

    def mi_lens_ended(self, requests: str) -> str:
        """Forgets requests; gives of each an error, its events, and its row if it had trials."""
        ended = (self.mi_lens_loop.held.pop(name, None) for name in json.loads(requests))
        return json.dumps([None if held is None else _told(held) for held in ended])


def _told(held: Held) -> list[Any]:
    job = held.job
    if not job.tries:
        return [held.failure, job.row.events, None]
    if not held.failure and not has_left(job):
        return [held.failure, job.row.events, None]
    row = {
        "token_ids": job.row.token_ids,
        "forced": list(job.row.forced),
        "stop_reason": job.stop_reason,
    }
    return [held.failure, job.row.events, row]


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
        again = given["again"]
        prompt_ids = ids[: len(ids) - prefix - again["written"]]
        row = Row(
            self.outline.tokenizer,
            prompt_ids,
            given["seed"],
            given["limit"],
            list(ids[len(prompt_ids) :]),
            forced=deque(again["forced"]),
            events=again["events"],
        )
        actions, sampling = self._conditions[given["condition"]]
        context = self.runner.max_model_len
        job = Job(given["index"], row, sampling, actions, tuple(given["stops"]), context)
        # Of a request that goes on, all but the last token were read before.
        read = len(ids) - 1 if again["written"] else 0
        return Held(job, len(prompt_ids) + prefix, read, is_trial=given["trial"])
