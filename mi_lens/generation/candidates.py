"""Candidates of several jobs at once: chosen on the device, and brought to the host in one copy."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.float64 import float64_device
from mi_lens.common.on_device import on_device
from mi_lens.interventions.row import Row
from mi_lens.interventions.sampling import Sampling, choose_tokens

AHEAD = 32  # Steps for which random numbers are copied to the device together.


class Candidates:
    """What the same rows draw, step after step.

    Args:
        rows: The rows. Each accepts one token a step.

    Attributes:
        tokens: What was drawn last, on the device; None before.
        ids: The same on the host.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.tokens: Int[Tensor, " rows"] | None = None
        self.ids: list[int] = []
        self._numbers: Float[Tensor, "step rows"] | None = None
        self._first = 0  # The step of the first row to which the first of these numbers belongs.

    def draw(
        self,
        logits: Float[Tensor, "rows d_vocab"],
        samplings: Sequence[Sampling],
        unchanged: Float[Tensor, "rows d_vocab"],
        changed: Sequence[int],
    ) -> tuple[list[bool], dict[int, int]]:
        """Draws `tokens` and `ids`; the host waits for the device once.

        Args:
            logits: The logits from which the candidates are drawn.
            samplings: How each row's token is chosen.
            unchanged: The logits without what interventions did to them.
            changed: The rows to which they did something.

        Returns:
            For each row whether its largest logit is finite; and for each changed row the token
            that it would have drawn from the unchanged logits.
        """
        greedy = all(sampling.temperature == 0 for sampling in samplings)
        uniforms = None if greedy else self._uniforms(float64_device(logits.device))
        top = logits.max(-1)
        self.tokens = top.indices if greedy else choose_tokens(logits, samplings, uniforms)
        known = [self.tokens, top.values - top.values == 0]  # Fewer operations than `isfinite`.
        if changed:
            rows = on_device(tuple(changed), logits.device)
            of_rows = None if uniforms is None else uniforms[rows.to(uniforms.device)]
            of_changed = [samplings[row] for row in changed]
            known.append(choose_tokens(unchanged[rows], of_changed, of_rows))
        values = torch.cat(known).tolist()
        count = len(self.rows)
        self.ids = values[:count]
        finite = list(map(bool, values[count : 2 * count]))
        return finite, dict(zip(changed, values[2 * count :], strict=True))

    def _uniforms(self, device: torch.device) -> Float[Tensor, " rows"]:
        step = self.rows[0].step
        if self._numbers is None or step >= self._first + AHEAD:
            numbers = np.stack([row.uniforms("token", AHEAD) for row in self.rows], axis=1)
            self._numbers = torch.from_numpy(numbers).to(device)
            self._first = step
        return self._numbers[step - self._first]
