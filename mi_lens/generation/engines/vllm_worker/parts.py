"""Attention for some of the positions that vLLM reads in its present step.

A layer that runs again for a few rows must attend to the cache of these rows only. vLLM's metadata
say which positions a layer reads, where it writes their keys and values, and how far it may look
back; here they are made for a part of a step, by vLLM's own builders.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_lens.common.on_device import on_device


@dataclass(frozen=True)
class Piece:
    """Neighbouring positions of one request.

    Attributes:
        place: The request's place in vLLM's batch.
        start: Where its first token stands among the tokens of the step.
        first: The position of that token in its text.
        count: How many positions.
    """

    place: int
    start: int
    first: int
    count: int = 1

    @property
    def stop(self) -> int:
        """The position behind the last."""
        return self.first + self.count


class Parts:
    """Makes and keeps the metadata of parts of one step.

    Args:
        runner: vLLM's model runner, whose buffers hold the step.
        context: vLLM's forward context of the step.
    """

    def __init__(self, runner: Any, context: Any):
        self.runner, self.context = runner, context
        self._made: dict[tuple[Piece, ...], tuple[Any, Int[Tensor, " tokens"]]] = {}

    @contextmanager
    def reading(self, pieces: Sequence[Piece]) -> Iterator[Int[Tensor, " tokens"]]:
        """Inside, layers read these pieces; gives the positions of their tokens."""
        from vllm.forward_context import (  # pyright: ignore[reportMissingImports]
            override_forward_context,
        )

        key = tuple(pieces)
        if key not in self._made:
            self._made[key] = self._make(key)
        context, positions = self._made[key]
        with override_forward_context(context):
            yield positions

    def _make(self, pieces: tuple[Piece, ...]) -> tuple[Any, Int[Tensor, " tokens"]]:
        from vllm.config import CUDAGraphMode  # pyright: ignore[reportMissingImports]
        from vllm.v1.attention.backend import (  # pyright: ignore[reportMissingImports]
            CommonAttentionMetadata,
        )

        runner, device = self.runner, self.runner.device
        places = on_device(tuple(piece.place for piece in pieces), device)
        tokens = on_device(tokens_of(pieces), device)
        positions = runner.positions[tokens]
        ends = [0, *accumulate(piece.count for piece in pieces)]
        ends_cpu = torch.tensor(ends, dtype=torch.int32)
        lengths_cpu = torch.tensor([piece.stop for piece in pieces], dtype=torch.int32)
        metadata: dict[str, Any] = {}
        slots_of_layers: dict[str, Tensor] = {}
        for group, groups in enumerate(runner.attn_groups):
            table = runner.input_batch.block_table[group]
            slots = table.slot_mapping.gpu[tokens]
            common = CommonAttentionMetadata(
                query_start_loc=ends_cpu.to(device),
                query_start_loc_cpu=ends_cpu,
                seq_lens=lengths_cpu.to(device),
                seq_lens_cpu_upper_bound=lengths_cpu,
                num_reqs=len(pieces),
                num_actual_tokens=len(tokens),
                max_query_len=max(piece.count for piece in pieces),
                max_seq_len=max(piece.stop for piece in pieces),
                block_table_tensor=table.get_device_tensor(runner.input_batch.num_reqs)[places],
                slot_mapping=slots,
                positions=positions,
                is_prefilling=torch.zeros(len(pieces), dtype=torch.bool),
            )
            for attention in groups:
                built = attention.build_metadata(common)
                metadata |= dict.fromkeys(attention.layer_names, built)
                slots_of_layers |= dict.fromkeys(attention.layer_names, slots)
        context = replace(
            self.context,
            attn_metadata=metadata,
            slot_mapping=slots_of_layers,
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            batch_descriptor=None,
            is_padding=None,
        )
        return context, positions


def tokens_of(pieces: Sequence[Piece]) -> tuple[int, ...]:
    """Where the tokens of pieces stand among those of the step."""
    return tuple(
        token for piece in pieces for token in range(piece.start, piece.start + piece.count)
    )
