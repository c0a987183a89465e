"""What a gate does: asks whether it is open, and lets an action act.

The numbers of a step are measured where they are: a probe's in `edit`, the entropy when candidates
are drawn. The host has them with the candidate (`mi_lens.generation.candidates`). Before that only
the device can decide, on logits and on samplings.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_lens.common.on_device import on_device
from mi_lens.interventions.again import Recycling
from mi_lens.interventions.plain_hooks import PlainPasses
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.protocol import Action
from mi_lens.interventions.recycle import PlainRecycling
from mi_lens.interventions.row import Rewound, Row
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.model import Model

STATES, CHOICE = "states", "choice"  # What a decision is about.
SAMPLINGS = (Sampling(0.0), Sampling(1.0))  # Any two that no intervention maps to themselves both.


class GateAction(Action):
    """What a gate does on one model; see `mi_lens.interventions.gate`.

    Args:
        inner: What acts where the gate is open.
        key: The name of the gate in events.
        bounds: By the name of a number, what it must be above.
        probe: A probe, and what its probability must be above.
        steps: The first and the last step at which it may open; None as the last is no end.
        times: The most steps at which it lets `inner` act.
    """

    def __init__(
        self,
        inner: Action,
        key: str,
        bounds: Mapping[str, float],
        probe: tuple[StateProbe, float] | None,
        steps: tuple[int, int | None],
        times: int | None,
    ):
        self.inner, self.key, self.times = inner, key, times
        self.first, self.last = steps
        self.bounds, self.probe = dict(bounds), None if probe is None else probe[0]
        self.tries = inner.tries
        self.measures_entropy = "entropy" in bounds
        if probe is not None:
            self.number = probe[0].key
            self.bounds[self.number] = probe[1]
        own = [] if self.probe is None else [self.probe.hook_name]
        self.hook_names = tuple(dict.fromkeys([*own, *inner.hook_names]))
        self.by_position = inner.by_position or not inner.hook_names
        self.recycled_layer, self.recycled_count = inner.recycled_layer, inner.recycled_count
        self.recycled_when = inner.recycled_when
        self._samples = type(inner).sampling is not Action.sampling

    def opens(self, row: Row, on: str) -> bool:
        """Whether the gate is open now, as far as the host knows the step's numbers."""
        if row.told is not None:
            if row.step > row.limit:
                raise ValueError(
                    f"step {row.step} lies behind the {row.limit} tokens of the trace, of which is "
                    "known where its gates were open; read no further"
                )
            return (self.key, on, row.step) in row.told
        numbers = row.numbers_before if on == STATES else row.numbers
        above = all(numbers.get(name, -1.0) > bound for name, bound in self.bounds.items())
        return above and self._may_open(row, on)

    def _may_open(self, row: Row, on: str) -> bool:
        """Whether step and budget allow it."""
        if row.step < self.first or (self.last is not None and row.step > self.last):
            return False
        if self.times is None:
            return True
        before = (
            max(0, min(event["last"] + 1, row.step) - event["step"])
            for event in row.events
            if event["what"] == "gate" and (event["gate"], event["on"]) == (self.key, on)
        )
        return sum(before) < self.times

    def _note(self, row: Row, on: str) -> None:
        """Records that the gate is open; neighbouring steps are one event."""
        if row.told is not None:
            return
        key = "gate", self.key, on
        here = (e for e in reversed(row.events) if (e["what"], e.get("gate"), e.get("on")) == key)
        latest = next(here, None)
        if latest is not None and row.step <= latest["last"] + 1:
            latest["last"] = row.step
        else:
            row.note("gate", gate=self.key, on=on, last=row.step)

    def will_edit(self, row: Row) -> bool:
        """See `Action.will_edit`. A probe needs the row's own state."""
        if self.probe is not None and row.told is None:
            return True
        return self.opens(row, STATES) and self.inner.will_edit(row)

    def edit(
        self, hook_name: str, states: Float[Tensor, "rows pos *d"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos *d"]:
        """See `Action.edit`."""
        if self.probe is not None and hook_name == self.probe.hook_name and rows[0].told is None:
            numbers = self.probe.probabilities(states[:, -1])
            for row, number in zip(rows, numbers.unbind(), strict=True):
                row.measuring[self.number] = number
        if hook_name not in self.inner.hook_names:
            return states
        places = tuple(
            i for i, row in enumerate(rows) if self.opens(row, STATES) and self.inner.will_edit(row)
        )
        for i in places:
            self._note(rows[i], STATES)
        if len(places) in (0, len(rows)):
            return self.inner.edit(hook_name, states, rows) if places else states
        index = on_device(places, states.device)
        part = states[index]
        changed = self.inner.edit(hook_name, part, [rows[i] for i in places])
        return states if changed is part else states.index_copy(0, index, changed)

    @property
    def innermost(self) -> Action:
        """See `Action.innermost`."""
        return self.inner

    @property
    def changes_logits(self) -> bool:
        """See `Action.changes_logits`."""
        return self.inner.changes_logits

    def logits(
        self, logits: Float[Tensor, "rows d_vocab"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows d_vocab"]:
        """See `Action.logits`."""
        changed = self.inner.logits(logits, rows)
        if changed is logits:
            return logits
        return torch.where(self.open_now(rows, logits.device)[:, None], changed, logits)

    @property
    def gates_sampling(self) -> bool:
        """See `Action.gates_sampling`."""
        return self._samples and bool(self.bounds)

    def sampling(self, row: Row, sampling: Sampling) -> Sampling:
        """See `Action.sampling`."""
        if self.bounds or not self._may_open(row, CHOICE):
            return sampling
        return self.inner.sampling(row, sampling)

    def opened_sampling(self, row: Row, sampling: Sampling) -> Sampling:
        """See `Action.opened_sampling`."""
        return self.inner.sampling(row, sampling) if self._may_open(row, CHOICE) else sampling

    def open_now(self, rows: Sequence[Row], device: torch.device) -> Bool[Tensor, " rows"]:
        """See `Action.open_now`: also where the host does not know the numbers yet."""
        if rows[0].told is not None:
            told = tuple(self.opens(row, CHOICE) for row in rows)
            return on_device(told, device, torch.bool)
        allowed = tuple(self._may_open(row, CHOICE) for row in rows)
        is_open = on_device(allowed, device, torch.bool)
        for name, bound in self.bounds.items():
            numbers = torch.stack([row.measuring[name] for row in rows])
            is_open = is_open & (numbers > bound).to(device)
        return is_open

    def recycling(self, row: Row) -> Recycling | None:
        """See `Action.recycling`."""
        on = STATES if self.recycled_when == "consumed" else CHOICE
        order = self.inner.recycling(row) if self.opens(row, on) else None
        if order is not None:
            self._note(row, on)
        return order

    def recycled_again(self, rewound: Rewound) -> dict[int, Recycling]:
        """See `Action.recycled_again`."""
        return self.inner.recycled_again(rewound)

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """See `Action.replace`; here also what acted on the draw is noted."""
        if row.trial is not None:  # It is the inner action's own, which began while it was open.
            return self.inner.replace(row, candidate, end_ids)
        if not self.opens(row, CHOICE):
            return candidate
        token = self.inner.replace(row, candidate, end_ids)
        acted = self.changes_logits or any(
            self.inner.sampling(row, sampling) != sampling for sampling in SAMPLINGS
        )
        if acted or token != candidate:
            self._note(row, CHOICE)
        return token

    def plain_hooks(
        self, model: Model, passes: PlainPasses, name: str
    ) -> list[tuple[str, Callable[..., Any]]]:
        """See `Action.plain_hooks`. Where a gate was open is known of traces only."""
        if not (self.inner.hook_names or self.changes_logits or self.recycled_layer is not None):
            return []
        if any(row.row.told is None for row in passes.rows):
            raise ValueError(
                f"{name}: a plain pass does not tell where a gate is open; give traces that were "
                "generated under it, or use mi_lens.generate"
            )
        if self.recycled_layer is not None:
            return PlainRecycling(self, model, passes).hooks()
        return super().plain_hooks(model, passes, name)
