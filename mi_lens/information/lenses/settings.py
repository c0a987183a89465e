"""How a tuned lens is trained: settings of Python and of the command line."""

import math
from dataclasses import dataclass

from mi_lens.common.checked_types import require_at_least, require_types


@dataclass(frozen=True, kw_only=True)
class LensTraining:
    """How a tuned lens is trained.

    Attributes:
        updates: Number of updates (Belrose et al.: 250).
        learning_rate: The largest change of a state's coordinate by the first update, in units of
            the states' root mean square; it falls linearly to zero.
        traces_per_update: Number of traces that an update learns from.
        steps_per_update: Largest number of steps of these traces that it learns from, drawn evenly.
        seed: Seed of the order of traces and of the steps that are drawn.
    """

    updates: int = 250
    learning_rate: float = 0.2
    traces_per_update: int = 8
    steps_per_update: int = 2048
    seed: int = 0

    def __post_init__(self):
        require_types(self)
        require_at_least(self, updates=1, traces_per_update=1, steps_per_update=1, seed=0)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"learning_rate={self.learning_rate}: expected a finite number above 0"
            )
