"""Candidates of several jobs at once: chosen on the device, and brought to the host in one copy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_lens.common.float64 import float64_device
from mi_lens.common.on_device import on_device
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling, choose_tokens

AHEAD = 32  # Steps for which random numbers are copied to the device together.


@dataclass
class Otherwise:
    """Another sampling of some rows, on which the device decides.

    Attributes:
        samplings: One for each row.
        where: Where it is the one that counts.
    """

    samplings: Sequence[Sampling]
    where: Bool[Tensor, " rows"]


class Candidates:
    """What the same rows draw, step after step.

    Args:
        rows: The rows. Each accepts one token a step, or takes some back.

    Attributes:
        tokens: What was drawn last, on the device; None before.
        ids: The same on the host.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.tokens: Int[Tensor, " rows"] | None = None
        self.ids: list[int] = []
        self._numbers: Float[Tensor, "step rows"] | None = None
        self._firsts: list[int] = []  # The rows' steps to which the first of these belong.

    def draw(
        self,
        logits: Float[Tensor, "rows d_vocab"],
        samplings: Sequence[Sampling],
        unchanged: Float[Tensor, "rows d_vocab"],
        changed: Sequence[int],
        otherwise: Otherwise | None = None,
    ) -> tuple[list[bool], dict[int, int]]:
        """Draws `tokens` and `ids`; the host waits for the device once.

        What was measured on the rows comes to the host in the same copy.

        Args:
            logits: The logits from which the candidates are drawn.
            samplings: How each row's token is chosen.
            unchanged: The logits without what interventions did to them.
            changed: The rows to which they did something.
            otherwise: Where a row's token may be chosen in another way.

        Returns:
            For each row whether its largest logit is finite; and for each changed row the token
            that it would have drawn from the unchanged logits.
        """
        ways = [samplings] if otherwise is None else [samplings, otherwise.samplings]
        greedy = all(sampling.temperature == 0 for way in ways for sampling in way)
        uniforms = None if greedy else self._uniforms(float64_device(logits.device))
        top = logits.max(-1)
        tokens = [top.indices if greedy else choose_tokens(logits, way, uniforms) for way in ways]
        where = None if otherwise is None else otherwise.where
        self.tokens = tokens[0] if where is None else torch.where(where, tokens[1], tokens[0])
        known = [self.tokens, top.values - top.values == 0]  # Fewer operations than `isfinite`.
        if changed:
            rows = on_device(tuple(changed), logits.device)
            of_rows = None if uniforms is None else uniforms[rows.to(uniforms.device)]
            wanted = [
                choose_tokens(unchanged[rows], [way[row] for row in changed], of_rows)
                for way in ways
            ]
            known.append(
                wanted[0] if where is None else torch.where(where[rows], wanted[1], wanted[0])
            )
        values = self._on_host(torch.cat(known))
        count = len(self.rows)
        self.ids = values[:count]
        finite = list(map(bool, values[count : 2 * count]))
        return finite, dict(zip(changed, values[2 * count :], strict=True))

    def _on_host(self, known: Int[Tensor, " values"]) -> list[int]:
        """These values; the rows get what was measured on them, in the same copy as bits."""
        measured = [(row, name) for row in self.rows for name in row.measuring]
        if not measured:
            return known.tolist()
        exact = float64_device(known.device).type == known.device.type
        types = (torch.float64, torch.int64) if exact else (torch.float32, torch.int32)
        numbers = [row.measuring[name].to(known.device, types[0]) for row, name in measured]
        values = torch.cat([known, torch.stack(numbers).view(types[1]).long()]).tolist()
        bits = np.array(values[len(known) :], np.int64 if exact else np.int32)
        told = bits.view(np.float64 if exact else np.float32).tolist()
        for (row, name), number in zip(measured, told, strict=True):
            row.numbers[name] = number
        return values[: len(known)]

    def _uniforms(self, device: torch.device) -> Float[Tensor, " rows"]:
        ahead = {row.step - first for row, first in zip(self.rows, self._firsts, strict=False)}
        if self._numbers is None or len(ahead) > 1 or not ahead <= set(range(AHEAD)):
            numbers = np.stack([row.uniforms("token", AHEAD) for row in self.rows], axis=1)
            self._numbers = torch.from_numpy(numbers).to(device)
            self._firsts, ahead = [row.step for row in self.rows], {0}
        return self._numbers[ahead.pop()]
