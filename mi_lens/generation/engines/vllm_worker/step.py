"""One step of vLLM's: which requests it reads, and the rows whose states and logits it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.engines.vllm_worker.held import Held, Reading
from mi_lens.generation.engines.vllm_worker.parts import Parts, Piece, tokens_of
from mi_lens.generation.jobs import Job, View
from mi_lens.models.hook_names import block_output


@dataclass
class Group:
    """Requests of a step with one state each, as the rows of a view.

    Attributes:
        view: Their jobs.
        pieces: Their positions.
        tokens: Where these stand among the tokens of the step: a slice, or on the model's device.
    """

    view: View
    pieces: tuple[Piece, ...]
    tokens: Int[Tensor, " rows"] | slice


class Views:
    """The views of the latest steps: a view knows plans and random numbers for steps to come."""

    def __init__(self):
        self._latest: dict[str, View] = {}

    def of(self, what: str, jobs: Sequence[Job]) -> View:
        """A view of these jobs; the one of before if it was of the same."""
        for view in self._latest.values():
            if len(view.jobs) == len(jobs) and all(map(_same, view.jobs, jobs)):
                self._latest[what] = view
                return view
        self._latest[what] = View(jobs)
        return self._latest[what]


@dataclass
class Step:
    """What vLLM computes at this moment.

    Attributes:
        readings: What it reads, in the order of vLLM's batch.
        decoding: The requests that read a generated token for the first time.
        emitting: The requests that draw a token.
        parts: Makes attention for parts of the step.
        outputs: By layer, its outputs at the emitting positions, where a candidate may ask for it
            to run again.
        inputs: By layer, what it read at all positions of the step, where it may run again.
    """

    readings: list[Reading]
    decoding: Group
    emitting: Group
    parts: Parts
    outputs: dict[int, Float[Tensor, "rows d"]] = field(default_factory=dict)
    inputs: dict[int, Float[Tensor, "tokens d"]] = field(default_factory=dict)

    def __post_init__(self):
        actions = {
            id(action): action for reading in self.readings for action in reading.held.job.actions
        }
        self.chunks = [reading for reading in self.readings if reading.chunk is not None]
        self.is_trial = any(reading.held.is_trial for reading in self.readings)
        self.recycled = {block for action in actions.values() for block in action.recycled_blocks}
        self.hook_names = {name for action in actions.values() for name in action.hook_names}
        lasts = {action.recycled_layer for action in actions.values()}
        self.hook_names |= {block_output(layer) for layer in lasts if layer is not None}
        watches = [reading.held.watch for reading in self.chunks]
        self.hook_names |= {name for watch in watches if watch is not None for name in watch.names}


def step_of(runner: Any, held: Mapping[str, Held], views: Views, context: Any) -> Step:
    """What the runner reads now.

    Args:
        runner: vLLM's model runner, whose buffers hold the step.
        held: The requests by their ids.
        views: Those of the latest steps.
        context: vLLM's forward context of the step.
    """
    batch = runner.input_batch
    count = batch.num_reqs
    starts = runner.query_start_loc.np[: count + 1].tolist()
    firsts = batch.num_computed_tokens_cpu[:count].tolist()
    discarded = runner.discard_request_mask.np[:count].tolist()
    readings = []
    for place, name in enumerate(batch.req_ids[:count]):
        piece = Piece(place, starts[place], firsts[place], starts[place + 1] - starts[place])
        request = held[name]
        request.catch_up(runner.requests[name].output_token_ids)
        known = min(max(request.read - piece.first, 0), piece.count)
        decodes = piece.stop > max(request.prompt, request.read)
        emits = not discarded[place] and request.watch is None
        readings.append(Reading(request, piece, known, decodes, emits))

    def group(what: str, taking: list[Reading]) -> Group:
        pieces = tuple(reading.last for reading in taking)
        view = views.of(what, [reading.held.job for reading in taking])
        return Group(view, pieces, _indices(tokens_of(pieces), runner.device))

    decoding = [reading for reading in readings if reading.decodes]
    emitting = [reading for reading in readings if reading.emits]
    decoded = group("decoding", decoding)
    emitted = decoded if emitting == decoding else group("emitting", emitting)
    step = Step(readings, decoded, emitted, Parts(runner, context))
    for reading in readings:
        reading.held.job.row.reading = 1 if reading.decodes else reading.held.prompt
    return step


def _indices(tokens: tuple[int, ...], device: Any) -> Int[Tensor, " rows"] | slice:
    """An index of these tokens; a slice, which needs no copy, if they are the first in order."""
    if tokens == tuple(range(len(tokens))):
        return slice(0, len(tokens))
    return on_device(tokens, device)


def _same(one: Job, other: Job) -> bool:
    return one is other
