"""Texts read on vLLM while its workers keep states of them (`vllm_worker`)."""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from mi_lens.generation.engines.vllm_worker.wire import KEY
from mi_lens.generation.engines.vllm_workers import Workers
from mi_lens.interventions.condition import Condition
from mi_lens.models.model import Model
from mi_lens.states import by_hook
from mi_lens.traces.trace import Trace

_numbers = count()  # A name of a text is given once a process.


@dataclass(frozen=True)
class Text:
    """A text to read.

    Attributes:
        ids: Its tokens.
        names: The hook names at which its states are kept while it is read.
        first: The position from which on they are.
        asked: The arguments of the method that is asked of the workers once it was read.
        trace: The trace that it is, if it is one.
        condition: What acted on the trace.
    """

    ids: tuple[int, ...]
    names: list[str]
    first: int
    asked: list[Any]
    trace: Trace | None = None
    condition: Condition = field(default_factory=Condition)

    def told(self, condition: str) -> dict[str, Any]:
        """What the workers are told of it beside its tokens, as JSON (`Readings.hold`).

        Args:
            condition: The name of its condition.
        """
        trace = self.trace
        return {
            "condition": condition,
            "first": self.first,
            "names": self.names,
            "trace": trace
            and {
                "events": list(trace.events),
                "id": trace.id,
                "last": trace.token_ids[-1],
                "prefix": trace.condition.get("prefix", 0),
                "prompt": len(trace.prompt_ids),
                "seed": trace.seed,
            },
        }


class TextReader(Workers):
    """What of `VLLMEngine` reads texts."""

    model: Model
    dtype: str

    def _read(self, method: str, texts: Sequence[Text]) -> Generator[Any, None, None]:
        """Has texts read, and yields in their order what `method` of the workers says of each."""
        engine = self._engine()
        self._require_room(texts)
        waiting, running, told = deque(enumerate(texts)), {}, {}
        room, place = by_hook.HELD, 0

        def forget() -> None:
            if running:
                engine.abort_request(list(running))
                self._ask("mi_lens_ended", [inside for _, _, inside in running.values()])

        with self._alive(forget):
            while place < len(texts):
                while waiting and (not running or self._size(waiting[0][1]) <= room):
                    at, text = waiting.popleft()
                    name = f"{KEY}-text-{next(_numbers)}"
                    running[name] = at, text, self._add_text(name, text)
                    room -= self._size(text)
                ended = [output.request_id for output in engine.step() if output.finished]
                if ended:
                    asked = {running[name][2]: running[name][1].asked for name in ended}
                    answers = self._ask(method, asked)[0]
                    for name, answer in zip(ended, answers, strict=True):
                        at, text, _ = running.pop(name)
                        room += self._size(text)
                        told[at] = answer
                while place in told:
                    yield told.pop(place)
                    place += 1

    def _size(self, text: Text) -> int:
        """Bytes of the states that are kept of a text."""
        coordinates = len(text.names) * self.model.cfg.d_model
        return (len(text.ids) - text.first) * coordinates * getattr(torch, self.dtype).itemsize

    def _require_room(self, texts: Sequence[Text]) -> None:
        longest = max((len(text.ids) for text in texts), default=0)
        if longest >= self.model.cfg.n_ctx:  # vLLM asks for room for a token more.
            raise ValueError(
                f"a text of {longest} tokens is to be read; expected fewer than "
                f"{self.model.cfg.n_ctx}, the engine's max_model_len"
            )

    def _add_text(self, name: str, text: Text) -> str:
        """Gives vLLM a text to read; the name that it goes by inside."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        # A salt of its own: what vLLM finds in its cache, layers do not read.
        prompt = {"prompt_token_ids": list(text.ids), "cache_salt": name}
        told = text.told(self._name_of(text.condition))
        sampling = SamplingParams(
            temperature=0, max_tokens=1, detokenize=False, extra_args={KEY: told}
        )
        return self._engine().add_request(name, prompt, sampling)
