"""What reads traces on vLLM, with TransformerLens in the place of vLLM's passes."""

import json
from functools import partial
from types import SimpleNamespace
from typing import Any

from mi_lens.common.provenance import content_hash
from mi_lens.generation.engines.vllm_measuring import TraceReader
from mi_lens.generation.engines.vllm_worker.layers import Stream
from mi_lens.generation.engines.vllm_worker.measuring import MeasuringExtension, Readings
from mi_lens.generation.engines.vllm_worker.parts import Piece
from mi_lens.interventions.replay import replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.states.segments import states_at
from tests.generation.engines.renamed import RenamedEngine

PART = 7  # Positions that a watch is shown at a time.


class PretendReader(RenamedEngine, TraceReader):
    """Generates by our own loop; its only worker is told by JSON alone.

    Attributes:
        worker: The worker.
        told: The lengths of all questions and answers.
    """

    _staged, _watched, _llm = False, None, "there"

    def __init__(self, model: Any):
        super().__init__(model)
        self.worker = MeasuringExtension()
        self.worker.mi_lens_loop = SimpleNamespace(held={})
        self.worker.mi_lens_readings = Readings(
            model, partial(backend_of(model).unembed, model), True
        )
        self.told: list[int] = []

    def _ask(self, method: str, what: Any) -> list[Any]:
        question = json.dumps(what)
        answer = getattr(self.worker, method)(question)
        self.told += [len(question), len(answer)]
        return [json.loads(answer)]

    def _read(self, method: str, texts: Any) -> Any:
        for number, text in enumerate(texts):
            condition = content_hash(text.condition.to_json())
            extra = json.loads(json.dumps(text.told(condition)))
            assert extra["condition"] == condition
            actions = tuple(part.bind(self.model) for part in text.condition.interventions)
            held = self.worker.mi_lens_readings.hold(tuple(text.ids), extra, actions)
            assert held.watch is not None
            replay = text.trace and replay_of(self.model, text.trace)
            every = [range(len(text.ids))]
            (states,) = states_at(self.model, [text.ids], text.names, every, replay)
            for first in range(0, len(text.ids), PART):
                for name, of in states.items():
                    part = of[first : first + PART]
                    # Of a step that reads another text's token first.
                    step = Stream(part.new_zeros(len(part) + 1, part.shape[1]))
                    step.hidden[1:] = part
                    held.watch.see(name, Piece(1, 1, first, len(part)), step)
            self.worker.mi_lens_loop.held[f"r{number}"] = held
            yield self._ask(method, {f"r{number}": text.asked})[0][0]
