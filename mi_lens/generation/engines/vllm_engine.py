"""vLLM as an engine: it schedules and keeps the cache, and our loop runs inside its workers.

Conditions mix in one batch, as everywhere; what a condition does, and which random numbers it draws
by, is decided by the same code as in our own loop (`vllm_worker`).
"""

import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch

from mi_lens.generation.engines.vllm_measuring import TraceReader
from mi_lens.generation.engines.vllm_requests import Running
from mi_lens.generation.engines.vllm_start import (
    CPU_CACHE,
    placed,
    require_options,
    started,
    tested_vllm,
    watched_layers,
)
from mi_lens.generation.engines.vllm_worker.trial import STEPS
from mi_lens.generation.jobs import Job
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.early_exit import EarlyExit
from mi_lens.interventions.gate import Gate, parts_of
from mi_lens.interventions.kinds import KINDS
from mi_lens.interventions.probe_exit import ProbeExit
from mi_lens.interventions.protocol import Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.interventions.steer import Steer
from mi_lens.models.fingerprint import checkpoint_fingerprint
from mi_lens.models.hook_names import RESIDUAL
from mi_lens.models.loading import load_outline, opened
from mi_lens.problems.think_kinds import AUTO

TRIAL = (1, 2, 3, 4, 5)  # Any token ids.


class VLLMEngine(TraceReader):
    """An `Engine` for every condition of this package's interventions, at vLLM's speed.

    How many texts are read together is vLLM's own `max_num_seqs`; a `batch_size` does not count.
    By default vLLM runs in processes of its own, which a script must allow for by having its work
    under `if __name__ == "__main__"`; VLLM_ENABLE_V1_MULTIPROCESSING=0 keeps it in this one.

    Args:
        checkpoint: A name as `mi_lens.load` takes it, but no GGUF file.
        dtype: float32, bfloat16 or float16; by default as `mi_lens.load` chooses.
        device: None: the installed build of vLLM has its own.
        think: See `mi_lens.load`.
        compiled: None runs the model eagerly, and interventions reach every block. Hook names let
            vLLM compile it, and record CUDA graphs on a GPU: only at these hook names and blocks
            can states be changed or blocks run again. An empty list leaves the interventions that
            act on logits and tokens.
        **options: Those of `vllm.LLM`, such as tensor_parallel_size=2, max_model_len=8192,
            max_num_seqs=64, kv_cache_memory_bytes=2**30 or distributed_executor_backend="ray".

    Raises:
        ImportError: If vLLM is not installed.
        ValueError: If its version was not tested, or it cannot run the model in this way.
        FileNotFoundError, OSError: For the reasons of `mi_lens.load`.
    """

    own = False

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        think: str = AUTO,
        compiled: Sequence[str] | None = None,
        **options: Any,
    ):
        vllm = tested_vllm()
        require_options(options)
        found = opened(checkpoint)
        self.device, torch_dtype, method = placed(found, dtype, device)
        found.require_weights()
        self.dtype = str(torch_dtype).removeprefix("torch.")
        self.name = f"vllm {vllm.__version__}" + (f", {method} weights" if method else "")
        self.model = load_outline(checkpoint, think=think)
        self.fingerprint = checkpoint_fingerprint(
            found.path, self.model.tokenizer, self.dtype, method
        )
        self._told = set()
        self._ends = frozenset(end_of_text_ids(self.model))
        options.setdefault("max_model_len", self.model.cfg.n_ctx)
        if self.device == "cpu" and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            options.setdefault("kv_cache_memory_bytes", CPU_CACHE)
        self._staged = options.get("pipeline_parallel_size", 1) > 1
        self._watched = None if compiled is None else set(watched_layers(compiled))
        every = self.refusal  # What each engine of this class refuses; this one may refuse more.
        self.refusal = lambda request: (
            every(request)
            or _refusal(self._staged, self._watched, request)
            or _refused_exits(self._staged, self._ends, request)
        )
        self._llm = started(vllm, found.path, self.dtype, compiled, options)
        self.model.cfg.n_ctx = self._llm.model_config.max_model_len
        try:
            self._ask(
                "mi_lens_begin",
                {
                    "checkpoint": str(found.path),
                    "think": think,
                    "end_ids": sorted(self._ends),
                    "compiled": compiled is not None,
                },
            )
            self._try()
        except BaseException:
            self.close()
            raise

    def _try(self) -> None:
        """Refuses a model whose layers cannot run again one by one (`vllm_worker.trial`)."""
        row = Row(self.model.tokenizer, TRIAL, 0, STEPS)
        running = Running(self._engine(), self._ask, self._name_of, frozenset())
        running.add(Job(0, row, Sampling(), (), (), self.model.cfg.n_ctx), Condition(), trial=True)
        while running.jobs:
            running.step()

    @staticmethod
    def refusal(request: Request) -> str | None:
        """See `Engine.refusal`."""
        for part in parts_of(request.condition.interventions):
            if KINDS.get(type(part).__name__) != type(part).__module__:
                return f"{type(part).__name__}, a class of your own, which vLLM's workers lack"
            what, name = _place(part)
            if what and not RESIDUAL.fullmatch(name):
                return (
                    f"{what} at {name!r}, and on vLLM only the residual stream between blocks can "
                    "be reached: hook_resid_post or hook_resid_pre"
                )
        return None

    def run(
        self, jobs: Sequence[Job], requests: Sequence[Request], batch_size: int
    ) -> Iterator[Job]:
        """See `Engine.run`.

        Raises:
            RuntimeError: If the engine was closed, or one of vLLM's processes died.
        """
        running = Running(self._engine(), self._ask, self._name_of, self._ends)
        with self._alive(running.forget):
            for job in jobs:
                running.add(job, requests[job.index].condition)
            while running.jobs:
                yield from running.step()


def _place(part: Intervention) -> tuple[str, str]:
    """What of an intervention reads or changes states, and at which hook name; "" for nothing."""
    if isinstance(part, Gate):
        return ("", "") if part.probe is None else ("a gate's probe", part.probe.hook_name)
    if isinstance(part, Steer | ProbeExit):
        return ("steering" if isinstance(part, Steer) else "a probe"), str(part.hook_name)
    return "", ""


def _refusal(staged: bool, watched: AbstractSet[int] | None, request: Request) -> str | None:
    """What of a request an engine with several stages, or of a compiled model, cannot do."""
    recycled, edited = set(), []
    for part in parts_of(request.condition.interventions):
        if isinstance(part, Recycle):
            recycled |= set(part.blocks)
        what, name = _place(part)
        edited += [name] if what else []
        if staged and isinstance(part, Gate) and (part.probe, part.entropy) != (None, None):
            return (
                "a gate on entropy or on a probe, and with pipeline_parallel_size above 1 the "
                "blocks lie in several processes, of which only the last knows these numbers: use "
                "tensor_parallel_size"
            )
    if staged and recycled:
        return (
            "recycling, and with pipeline_parallel_size above 1 the blocks lie in several "
            "processes, of which a candidate reaches only the last: use tensor_parallel_size"
        )
    beyond = (recycled | set(watched_layers(edited))) - (watched or set())
    if watched is not None and beyond:
        return (
            f"something at blocks {sorted(beyond)}, and the model was compiled for "
            f"{sorted(watched)}: name their outputs in compiled=, or leave it out"
        )
    return None


def _refused_exits(staged: bool, ends: AbstractSet[int], request: Request) -> str | None:
    """What of a request that may exit early an engine cannot do."""
    parts = list(parts_of(request.condition.interventions))
    trials = any(isinstance(part, EarlyExit) for part in parts)
    if staged and (trials or any(isinstance(part, ProbeExit) for part in parts)):
        return (
            "an early exit, and with pipeline_parallel_size above 1 a row lies in several "
            "processes, of which only the last draws its tokens: use tensor_parallel_size"
        )
    if trials and not ends:
        return "trial answers, and no token ends a text of this model: set model.eos_token_ids"
    return None
