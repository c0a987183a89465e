"""Forbids one token at one step, to see what is written in its place."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.common.on_device import on_device
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.models.model import Model


@dataclass(frozen=True)
class ForbidAt(Intervention):
    """Forbids one token at one step.

    Attributes:
        step: Index of the generated token; the tokens of a prefix count.
        token: The token id that cannot be chosen at this step.
    """

    step: int
    token: int

    def __post_init__(self):
        require_types(self)
        require_at_least(self, step=0, token=0)

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        if not 0 <= self.token < model.cfg.d_vocab:
            raise ValueError(
                f"token id {self.token}: this vocabulary has 0 to {model.cfg.d_vocab - 1}"
            )
        return _Forbid(self.step, self.token)

    def to_json(self):
        """See `Intervention.to_json`."""
        return asdict(self)


class _Forbid(Action):
    def __init__(self, step: int, token: int):
        self.step, self.token = step, token

    def logits(
        self, logits: Float[Tensor, "rows d_vocab"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows d_vocab"]:
        """See `Action.logits`."""
        here = [place for place, row in enumerate(rows) if row.step == self.step]
        if not here:
            return logits
        changed = logits.clone()
        changed[on_device(tuple(here), logits.device), self.token] = -torch.inf
        return changed
