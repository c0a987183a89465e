"""vLLM's workers as they are asked, until the engine is closed or one of its processes ends."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mi_lens.common.provenance import content_hash
from mi_lens.interventions.condition import Condition

CUT_SHORT = "method failed: cancelled"  # vLLM's words where a worker died during a call.


class Workers:
    """What of `VLLMEngine` asks vLLM's workers.

    Attributes:
        name: The engine's name.
    """

    name: str
    _llm: Any  # A `vllm.LLM`; None once it was closed.
    _told: set[str]  # The names of the conditions that workers know.

    def close(self) -> None:
        """Ends vLLM's processes and frees its memory."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        if not llm.llm_engine.vllm_config.parallel_config.distributed_executor_backend:
            from vllm.distributed import (  # pyright: ignore[reportMissingImports]
                cleanup_dist_env_and_memory,
            )

            cleanup_dist_env_and_memory()

    def _engine(self) -> Any:
        """The engine that vLLM has.

        Raises:
            RuntimeError: If it was closed.
        """
        if self._llm is None:
            raise RuntimeError(f"the engine {self.name} was closed; load it again")
        return self._llm.llm_engine

    @contextmanager
    def _alive(self, forget: Callable[[], object]) -> Iterator[None]:
        """Inside, the workers run; at the end they forget what did not end, if they are there.

        Args:
            forget: Takes back what runs.

        Raises:
            RuntimeError: If one of vLLM's processes died.
        """
        from vllm.v1.engine.exceptions import (  # pyright: ignore[reportMissingImports]
            EngineDeadError,
        )

        try:
            yield
        except EngineDeadError as error:
            self.close()
            raise RuntimeError(
                f"a process of the engine {self.name} died; its last messages say why. Traces that "
                "had ended are kept; run the same again to go on"
            ) from error
        finally:  # The caller stopped, or something failed.
            if self._llm is not None:
                forget()

    def _ask(self, method: str, what: Any) -> list[Any]:
        """What every worker answers; questions and answers are JSON.

        Raises:
            EngineDeadError: If a worker died while it was asked.
        """
        try:
            answers = self._llm.llm_engine.collective_rpc(method, args=(json.dumps(what),))
        except Exception as error:  # vLLM has no class for it
            if not str(error).endswith(CUT_SHORT):
                raise
            from vllm.v1.engine.exceptions import (  # pyright: ignore[reportMissingImports]
                EngineDeadError,
            )

            raise EngineDeadError from error
        return [json.loads(answer) for answer in answers]

    def _name_of(self, condition: Condition) -> str:
        """The name by which workers know a condition, of which they are told once."""
        settings = condition.to_json()
        name = content_hash(settings)
        if name not in self._told:
            self._ask("mi_lens_conditions", {name: settings})
            self._told.add(name)
        return name
