"""Single steps of a HookedTransformer that are recorded once and replayed: CUDA graphs.

A step of decoding starts hundreds of kernels, and for small batches the host takes longer to start
them than the device to run them. So what lies between two hooks is recorded as one piece: k hooked
places cut a step into k + 1 pieces. A block with hooks inside runs as usual.

A recorded piece reads and writes the same memory each time. Hooks get copies, which stay as they
are. A piece is recorded anew when the number of rows, the places read, the slots of the cache, the
hooked places or a weight are no longer those of the recording.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.activation_functions import softcap_enabled

from mi_lens.models.backends.attention import LayerStep
from mi_lens.models.backends.cache import Cache, LayerCache
from mi_lens.models.backends.hooked_passes import embed, last_logits
from mi_lens.models.backends.positions import Positions, StandingPositions

# Records what a function does on tensors; gives what replays it, and the output, whose values each
# replay writes anew.
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
Stage = Callable[[Tensor, Positions], Tensor]


def recorder_for(device: torch.device | str) -> Recorder | None:
    """What records on a device; None if nothing is recorded there."""
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return partial(record_cuda_graph, torch.cuda.graph_pool_handle())
    return None


def record_cuda_graph(pool: Any, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Records what a function does as a CUDA graph; the function must not wait for the device.

    Args:
        pool: The memory that graphs share which are replayed in the order of their recording.
        run: The function.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # Libraries allocate what they need in a first run.
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = run()
    return graph.replay, output


@dataclass
class Piece:
    """A part of a step that is replayed.

    Attributes:
        run: What it computes of its input.
        record: What records it.
    """

    run: Callable[[Tensor], Tensor]
    record: Recorder
    _given: Tensor | None = None
    _replay: Callable[[], None] | None = None
    _output: Tensor | None = None

    def __call__(self, given: Tensor) -> Tensor:
        """The output, which is the caller's to keep."""
        if self._given is None:
            self._given = given.clone()
            self._replay, self._output = self.record(partial(self.run, self._given))
        else:
            self._given.copy_(given)
        assert self._replay is not None
        assert self._output is not None
        self._replay()
        return self._output.clone()


class RecordedStep:
    """The pieces of a step on some rows of a cache, and what is between them.

    Args:
        model: A HookedTransformer with this package's blocks.
        record: What records pieces.
    """

    def __init__(self, model: HookedTransformer, record: Recorder):
        self.model, self.record = model, record
        self.spots = _spots(model)
        self.weights = [
            (module._parameters, name)
            for module in model.modules()
            for name, weight in module._parameters.items()
            if weight is not None
        ]
        self._key: Any = None
        self._places: tuple[int, ...] = ()  # Of each row's last token; empty if unknown.

    def logits(
        self, cache: Cache, tokens: Int[Tensor, "rows 1"], positions: Positions
    ) -> Float[Tensor, "rows 1 d_vocab"]:
        """A step: the logits of the new tokens, which it adds to the cache."""
        for layer in cache.layers:
            layer.reserve(positions)
        self._prepare(cache, positions, len(tokens))
        state: Tensor = tokens
        for part in self._parts:
            state = part(state, positions)
        return state

    def _prepare(self, cache: Cache, positions: Positions, rows: int) -> None:
        """Puts the positions where the pieces read them, and cuts pieces anew where it must."""
        hooked = tuple(any(map(_has_hooks, spot)) for spot in self.spots)
        addresses = [_address(*weight) for weight in self.weights]
        key = rows, positions.read, cache.exchanged, hooked, addresses
        places = positions.last(rows)
        if key != self._key:
            self._key = key
            self._position = torch.tensor(places, device=positions.device)[:, None]
            self._standing = StandingPositions(self._position, positions)
            self._renew, _ = self.record(partial(self._standing.renew, self.model.blocks))
            self._parts = self._cut(cache, hooked)
            self._reruns: dict[tuple[int, bool], Piece] = {}
        elif places == tuple(place + 1 for place in self._places):
            self._position.add_(1)
        elif places != self._places:
            self._position.copy_(torch.tensor(places)[:, None])
        self._places = places
        self._renew()

    def _cut(self, cache: Cache, hooked: Sequence[bool]) -> list[Stage]:
        """Pieces, and what runs between them as usual."""
        parts: list[Stage] = []
        piece: list[Stage] = []

        def close(*usual: Stage) -> None:
            if piece:
                parts.append(_recorded(tuple(piece), self._standing, self.record))
                piece.clear()
            parts.extend(usual)

        def add(stage: Stage, as_usual: bool) -> None:
            close(stage) if as_usual else piece.append(stage)

        first, *of_blocks, last = hooked
        add(partial(_embed, self.model), first)
        for index, (block, layer) in enumerate(zip(self.model.blocks, cache.layers, strict=True)):
            before, inside, behind = of_blocks[3 * index : 3 * index + 3]
            if inside or block.splits_inputs or softcap_enabled(block.cfg.attn_scores_soft_cap):
                close(partial(_whole, block, layer))
                continue
            if before:
                close(partial(_fire, block.hook_resid_pre))
            piece.append(partial(_inside, block, layer))
            if behind:
                close(partial(_fire, block.hook_resid_post))
        add(partial(_end, self.model), last)
        close()
        return parts

    def forget_places(self) -> None:
        """The rows of the cache have changed."""
        self._places = ()

    def can_run_again(self, cache: Cache, layer: int) -> bool:
        """Whether a block can be replayed at the last position of the last step."""
        known = self._key is not None and self._key[2] == cache.exchanged and self._places
        block = self.model.blocks[layer]
        return bool(known) and not softcap_enabled(block.cfg.attn_scores_soft_cap)

    def again(
        self,
        cache: LayerCache,
        layer: int,
        residual: Float[Tensor, "some 1 d_model"],
        rows: Int[Tensor, " some"],
        keep_kv: bool,
    ) -> Float[Tensor, "some 1 d_model"]:
        """A block once more at the last position of some rows; see `Backend.again`.

        It runs for all rows, and the keys and values of the others stay.
        """
        if (layer, keep_kv) not in self._reruns:
            run = partial(self._run_again, cache, self.model.blocks[layer], keep_kv)
            self._reruns[layer, keep_kv] = Piece(run, self.record)
        flagged = torch.cat([residual, torch.ones_like(residual[..., :1])], dim=-1)
        given = flagged.new_zeros(len(self._places), 1, flagged.shape[-1])
        return self._reruns[layer, keep_kv](given.index_copy(0, rows, flagged))[rows]

    def _run_again(
        self,
        cache: LayerCache,
        block: Any,
        keep_kv: bool,
        flagged: Float[Tensor, "rows 1 d_model_and_flag"],
    ) -> Float[Tensor, "rows 1 d_model"]:
        """The block on all rows; the last number of a state says whether the row takes part."""
        index = self._standing.index
        before = [slots[index] for slots in cache.slots]
        output = block.inside(flagged[..., :-1].contiguous(), LayerStep(self._standing, cache))
        takes_part = flagged[..., -1:, None] != 0
        for slots, old in zip(cache.slots, before, strict=True):
            slots[index] = old if keep_kv else torch.where(takes_part, slots[index], old)
        return output


def _address(parameters: Any, name: str) -> int | None:
    weight = parameters.get(name)
    return None if weight is None else weight.data_ptr()


def _recorded(stages: tuple[Stage, ...], standing: StandingPositions, record: Recorder) -> Stage:
    def run(state: Tensor) -> Tensor:
        for stage in stages:
            state = stage(state, standing)
        return state

    piece = Piece(run, record)
    return lambda state, positions: piece(state)


def _embed(model: HookedTransformer, tokens: Tensor, positions: Positions) -> Tensor:
    return embed(model, tokens, positions)


def _whole(block: Any, cache: LayerCache, state: Tensor, positions: Positions) -> Tensor:
    return block(state, past_kv_cache_entry=LayerStep(positions, cache))


def _fire(point: Any, state: Tensor, positions: Positions) -> Tensor:
    return point(state)


def _inside(block: Any, cache: LayerCache, state: Tensor, positions: Positions) -> Tensor:
    return block.inside(state, LayerStep(positions, cache))


def _end(model: HookedTransformer, state: Tensor, positions: Positions) -> Tensor:
    return last_logits(model, state, 1)


def _spots(model: HookedTransformer) -> list[list[Any]]:
    """The modules of the embedding; of each block its input, inside and output; and of the end."""
    blocks = [list(block.modules()) for block in model.blocks]
    end = [*model.ln_final.modules(), *model.unembed.modules()]
    elsewhere = {id(module) for modules in (*blocks, end) for module in modules}
    spots = [[module for module in model.modules() if id(module) not in elsewhere]]
    for block, modules in zip(model.blocks, blocks, strict=True):
        edges = [block.hook_resid_pre, block.hook_resid_post]
        inside = [module for module in modules if all(module is not edge for edge in edges)]
        spots += [edges[:1], inside, edges[1:]]
    return [*spots, end]


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
