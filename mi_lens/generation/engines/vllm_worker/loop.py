"""Our decode loop inside vLLM's: edits states, runs blocks again, draws and accepts tokens.

vLLM decides which requests are read together, and keeps their keys and values. In each of its steps
the loop is called before and after every layer that has something to do, and in place of vLLM's own
sampling.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.drawing import draw
from mi_lens.generation.engines.vllm_worker.held import Held, accepted
from mi_lens.generation.engines.vllm_worker.layers import Layers, Stream
from mi_lens.generation.engines.vllm_worker.parts import Piece
from mi_lens.generation.engines.vllm_worker.running_again import read_again, run_again
from mi_lens.generation.engines.vllm_worker.step import Step, Views, step_of
from mi_lens.generation.engines.vllm_worker.trial import difference
from mi_lens.generation.jobs import Turn, View
from mi_lens.generation.recycling import orders_of, recyclers
from mi_lens.models.hook_names import block_output


class WorkerLoop:
    """Acts on the steps of one model runner.

    Args:
        runner: vLLM's model runner of this process.
        layers: The layers of its model.
        hold: Makes the request of an id, when its first tokens are read.
        end_ids: The tokens that end a generation.

    Attributes:
        held: The requests under way, and those that have ended and were not asked for yet.
    """

    def __init__(
        self,
        runner: Any,
        layers: Layers,
        hold: Callable[[str], Held],
        end_ids: frozenset[int],
    ):
        self.runner, self.layers = runner, layers
        self.hold, self.end_ids = hold, end_ids
        self.held: dict[str, Held] = {}
        self.step: Step | None = None
        self._views = Views()
        self._forward = runner._model_forward
        runner._model_forward = self.forward
        runner._sample = self.sample

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The pass of vLLM's model over the tokens of a step."""
        from vllm.forward_context import (  # pyright: ignore[reportMissingImports]
            get_forward_context,
        )

        for name in self.runner.input_batch.req_ids:
            if name not in self.held:
                self.held[name] = self.hold(name)
        self.step = step_of(self.runner, self.held, self._views, get_forward_context())
        try:
            output = self._forward(*args, **kwargs)
        except BaseException:
            self.step = None
            raise
        for reading in self.step.readings:
            reading.held.read = max(reading.held.read, reading.piece.stop)
        return output

    def sample(self, logits: Float[Tensor, "requests d_vocab"], _drafts: Any) -> Any:
        """In place of vLLM's sampling: the token of every request."""
        from vllm.v1.outputs import SamplerOutput  # pyright: ignore[reportMissingImports]

        step, self.step = self.step, None
        assert step is not None
        tokens = [0] * len(step.readings)
        if step.emitting.pieces:
            for piece, token in zip(step.emitting.pieces, self._drawn(step, logits), strict=True):
                tokens[piece.place] = token
        drawn = torch.tensor(tokens, dtype=torch.int32, device=logits.device)[:, None]
        return SamplerOutput(sampled_token_ids=drawn, logprobs_tensors=None)

    def _drawn(self, step: Step, logits: Float[Tensor, "requests d_vocab"]) -> list[int]:
        """The tokens of the requests that draw one."""
        emitting = step.emitting
        places = tuple(piece.place for piece in emitting.pieces)
        whole = len(places) == len(step.readings)
        try:
            drawn_from = logits if whole else logits[on_device(places, logits.device)]
            draw(emitting.view, drawn_from)
            self._recycle_candidates(step)
            self._try_layers(step, drawn_from)
        except ValueError as error:  # No process of vLLM's outlives one, so it goes out as a note.
            for reading in step.readings:
                reading.held.failure = reading.held.failure or str(error)
            return [next(iter(self.end_ids), 0)] * len(places)
        return [accepted(job, self.end_ids) for job in emitting.view.jobs]

    def _try_layers(self, step: Step, logits: Float[Tensor, "rows d_vocab"]) -> None:
        """Runs the row of a trial once more, and says so if its logits are not the same."""
        staged = len(self.layers.blocks) < self.layers.count
        for reading in step.readings:
            if reading.held.is_trial and reading.decodes and step.inputs and not staged:
                first, inputs = min(step.inputs.items())
                row = step.emitting.view.jobs.index(reading.held.job)
                states = inputs[reading.last.start][None].clone()
                again = self._onward(step, first, states, View([reading.held.job]), [reading.last])
                reading.held.failure = difference(again, logits[row : row + 1])

    def act(self, hidden: Tensor, residual: Tensor | None, layer: int, before: bool) -> None:
        """What is done to the stream before or after a layer of the step, in place."""
        if self.step is not None:
            turn = self._before if before else self._after
            turn(self.step, layer, Stream(hidden, residual))

    def unembed(self, states: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d_vocab"]:
        """The logits of states behind the last layer, converted to the model's dtype."""
        runner = self.runner
        return self.layers.logits(Stream(states.to(runner.device, runner.model_config.dtype)))

    def _before(self, step: Step, layer: int, stream: Stream) -> None:
        """Edits of a layer's input, which is kept if the layer may run again."""
        name = f"blocks.{layer}.hook_resid_pre"
        if name in step.hook_names:
            self._edit(step, name, stream)
        if layer in step.recycled or (step.is_trial and not step.inputs):
            step.inputs[layer] = stream.at(slice(None))
        _show(step, name, stream)

    def _after(self, step: Step, layer: int, stream: Stream) -> None:
        """Edits of a layer's output, and runs of the layer that tokens ask for."""
        name = block_output(layer)
        if name not in step.hook_names:
            return
        for reading in step.chunks:
            if reading.old and reading.recycled.get(layer):
                read_again(self.layers, step, layer, reading, stream)
        self._edit(step, name, stream, layer)
        if recyclers(step.emitting.view, layer, "candidate"):
            step.outputs[layer] = stream.at(step.emitting.tokens)
        _show(step, name, stream)

    def _edit(self, step: Step, name: str, stream: Stream, layer: int | None = None) -> None:
        """Actions edit the states of their rows; with a layer, consumed tokens run it again."""
        for reading in step.chunks:
            chunk = reading.chunk
            acts = any(name in action.hook_names for action in reading.held.job.actions)
            read_again = layer is not None and reading.recycled.get(layer)
            if chunk is None or not acts or read_again:
                continue
            tokens = slice(chunk.start, chunk.start + chunk.count)
            states = stream.at(tokens)
            stream.put(tokens, states, reading.edited(name, states, chunk.first))
        group = step.decoding
        recycles = layer is not None and recyclers(group.view, layer, "consumed")
        if not (recycles or _acting(group.view, name)):
            return
        states = stream.at(group.tokens)
        edited = _edited(group.view, name, states)
        if layer is not None:
            edited = self._recycle_consumed(step, layer, edited)
        if edited is not states:
            stream.put(group.tokens, states, edited)

    def _recycle_consumed(
        self, step: Step, layer: int, states: Float[Tensor, "rows d"]
    ) -> Float[Tensor, "rows d"]:
        group = step.decoding
        for order in orders_of(group.view, layer, "consumed"):
            rows = on_device(tuple(order.places), states.device)
            pieces = [group.pieces[place] for place in order.places]
            again = run_again(self.layers, step, layer, order.recycling, states[rows], pieces)
            states = states.index_copy(0, rows, again)
            for place in order.places:
                row = group.view.rows[place]
                passes = order.recycling.cost(layer, self.layers.count, "consumed")
                row.note("recycle", layer=layer, consumed=row.consumed, passes=passes)
        return states

    def _recycle_candidates(self, step: Step) -> None:
        """Runs blocks again where a candidate asks for it, and draws these candidates anew."""
        group = step.emitting
        orders = [
            order
            for layer in sorted(step.outputs)
            for order in orders_of(group.view, layer, "candidate")
        ]
        for order in orders:
            rows = on_device(tuple(order.places), self.runner.device)
            pieces = [group.pieces[place] for place in order.places]
            view = View([group.view.jobs[place] for place in order.places])
            candidates = [row.candidate for row in view.rows]
            states = step.outputs[order.layer][rows]
            states = run_again(self.layers, step, order.layer, order.recycling, states, pieces)
            draw(view, self._onward(step, order.layer + 1, states, view, pieces))
            told = {
                "layer": order.layer,
                "passes": order.recycling.cost(order.layer, self.layers.count, "candidate"),
            }
            for row, candidate in zip(view.rows, candidates, strict=True):
                row.note("recycle", **told, wanted=candidate, emitted=row.candidate)

    def _onward(
        self,
        step: Step,
        first: int,
        states: Float[Tensor, "rows d"],
        view: View,
        pieces: Sequence[Piece],
    ) -> Float[Tensor, "rows d_vocab"]:
        """The logits of rows from a layer on, whose actions act anew in the layers behind."""
        stream = Stream(states)
        with step.parts.reading(pieces) as positions:
            for layer in range(first, self.layers.count):
                _edit_all(view, f"blocks.{layer}.hook_resid_pre", stream)
                stream = self.layers.run(layer, positions, stream)
                _edit_all(view, block_output(layer), stream)
            return self.layers.logits(stream)


def _show(step: Step, name: str, stream: Stream) -> None:
    """Shows states to what watches them."""
    for reading in step.chunks:
        if reading.held.watch is not None:
            reading.held.watch.see(name, reading.piece, stream)


def _acting(view: View, name: str) -> list[Turn]:
    """The actions at a hook name."""
    return view.acting(name, lambda action: name in action.hook_names)


def _edited(view: View, name: str, states: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    """States of one position of each row, as the actions at a hook name make them."""
    given = states[:, None]
    edited = view.apply(
        _acting(view, name), lambda action, part, rows: action.edit(name, part, rows), given
    )
    return states if edited is given else edited[:, 0]


def _edit_all(view: View, name: str, stream: Stream) -> None:
    if _acting(view, name):
        everything = slice(None)
        states = stream.at(everything)
        edited = _edited(view, name, states)
        if edited is not states:
            stream.put(everything, states, edited)
