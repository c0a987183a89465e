"""Layers that run again at some positions of a step, and what is behind these positions."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.generation.engines.vllm_worker.held import Reading
from mi_lens.generation.engines.vllm_worker.layers import Layers, Stream
from mi_lens.generation.engines.vllm_worker.parts import Piece
from mi_lens.generation.engines.vllm_worker.step import Step
from mi_lens.interventions.again import Recycling
from mi_lens.models.hook_names import block_output


def run_again(
    layers: Layers,
    step: Step,
    layer: int,
    recycling: Recycling,
    states: Float[Tensor, "rows d"],
    pieces: Sequence[Piece],
) -> Float[Tensor, "rows d"]:
    """Outputs of layers, run again on these outputs; one position of each row.

    Args:
        layers: The layers of the model.
        step: The step.
        layer: The last of those that run again.
        recycling: How often they run, and what stays in the cache.
        states: The outputs of the last.
        pieces: The positions.
    """
    blocks = recycling.blocks(layer)
    with step.parts.reading(pieces) as positions:
        for _ in range(recycling.passes):
            stream = Stream(states.clone())
            for block in blocks:
                stream = layers.run(block, positions, stream)
            states = recycling.moved(states, stream.at(slice(None)))
        if recycling.keep_kv:  # The first run once more, for its keys and values.
            tokens = on_device(tuple(piece.start for piece in pieces), states.device)
            for block in blocks:
                layers.run(block, positions, Stream(step.inputs[block][tokens]))
    return states


def read_again(layers: Layers, step: Step, layer: int, reading: Reading, stream: Stream) -> None:
    """Changes a layer's outputs where it ran again when these positions were read first.

    What follows a recycled position attends to its new keys and values, so the layer goes from one
    of them to the next; and so do the layers that ran again with it.
    """
    piece, recycled = reading.piece, reading.recycled[layer]
    name, first, stop = block_output(layer), piece.first, piece.first + reading.old
    for end in sorted({*(at + 1 for at in recycled), stop}):
        tokens = slice(piece.start + first - piece.first, piece.start + end - piece.first)
        was = stream.at(tokens)
        states = reading.edited(name, was, first)
        how = recycled.get(end - 1)
        if how is not None:
            last = Piece(piece.place, tokens.stop - 1, end - 1)
            again = run_again(layers, step, layer, how, states[-1:], [last])
            states = torch.cat([states[:-1], again])
        stream.put(tokens, was, states)
        if how is not None and end < piece.stop:
            rest = Piece(piece.place, tokens.stop, end, piece.stop - end)
            behind = slice(tokens.stop, piece.start + piece.count)
            ran = _read_behind(layers, step, how.blocks(layer), reading, rest)
            stream.put(behind, stream.at(behind), ran)
        first = end


def _read_behind(
    layers: Layers, step: Step, blocks: range, reading: Reading, rest: Piece
) -> Float[Tensor, "pos d"]:
    """What layers make of positions behind one at which they ran again, from the first on."""
    tokens = slice(rest.start, rest.start + rest.count)
    stream = Stream(step.inputs[blocks[0]][tokens].clone())
    with step.parts.reading([rest]) as positions:
        for block in blocks:
            if block > blocks[0]:
                for name in (block_output(block - 1), f"blocks.{block}.hook_resid_pre"):
                    stream = Stream(reading.edited_again(name, stream.at(slice(None)), rest.first))
                    if reading.held.watch is not None:
                        here = Piece(rest.place, 0, rest.first, rest.count)
                        reading.held.watch.see(name, here, stream)
                step.inputs[block][tokens] = stream.at(slice(None))
            stream = layers.run(block, positions, stream)
    return stream.at(slice(None))
