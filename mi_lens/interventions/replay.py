"""What a trace's interventions do while a model reads the trace again.

The states of a steered generation are those of a steered model. So a trace is read under the
interventions that it was written under: states are edited at the positions at which they were
edited, and blocks run again where the trace's events say that they did. What changes only how a
token is chosen changes no state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.interventions.again import Recycling
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.kinds import from_json
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Rewound
from mi_lens.models.hook_names import block_output, layer_of_output
from mi_lens.models.model import Model
from mi_lens.traces.trace import Trace

# The condition under which a trace is read: that of its generation, or none.
ReadUnder = Literal["as generated"] | None


@dataclass
class Replay:
    """A trace's actions, bound to the model that reads the trace.

    Attributes:
        model: A HookedTransformer or TransformerBridge.
        trace: The trace.
        actions: What acted on it, in this order.
    """

    model: Model
    trace: Trace
    actions: Sequence[Action]

    @cached_property
    def rewound(self) -> Rewound:
        """The trace as the row that it was."""
        return Rewound.of(self.model.tokenizer, self.trace)

    @cached_property
    def recycled(self) -> dict[tuple[int, int], Recycling]:
        """How a block ran again, by its layer and the position."""
        return {
            (action.recycled_layer, position): recycling
            for action in self.actions
            if action.recycled_layer is not None
            for position, recycling in action.recycled_again(self.rewound).items()
        }

    @property
    def at_once(self) -> int:
        """How many positions must be read at once: 0, or all that the first step read.

        The latter if an action edits states and may need those of other positions for it.
        """
        whole = any(action.hook_names and not action.by_position for action in self.actions)
        return self.rewound.first if whole else 0

    def segments(self, width: int, length: int) -> list[tuple[int, int]]:
        """Parts of `width` positions to read one after another, each of about `length` at most.

        A position at which a block runs again is the last of its part; see also `at_once`.
        """
        first = min(self.at_once, width)
        ends = {first, width} | {position + 1 for _, position in self.recycled if position < width}
        segments, start = [], 0
        for end in sorted(ends):
            while start < end:
                stop = end if start < first else min(start + length, end)
                segments.append((start, stop))
                start = stop
        return segments

    def hooks(self, start: int, stop: int, cache: Any) -> list[tuple[str, Callable[..., Any]]]:
        """The hooks of a part, as (name, hook) pairs.

        Args:
            start: The part's first position.
            stop: The position after its last.
            cache: The backend's cache, which the part is added to.
        """
        names = dict.fromkeys(name for action in self.actions for name in action.hook_names)
        names |= {block_output(layer): None for layer, at in self.recycled if at == stop - 1}
        return [(name, partial(self._act, name, start, stop, cache)) for name in names]

    def _act(
        self,
        name: str,
        start: int,
        stop: int,
        cache: Any,
        states: Float[Tensor, "1 pos *d"],
        hook: Any,
    ) -> Float[Tensor, "1 pos *d"]:
        for action in self.actions:
            if name in action.hook_names:
                states = action.edit_again(name, states, self.rewound, start)
        layer = layer_of_output(name)
        if layer is None or (layer, stop - 1) not in self.recycled:
            return states
        return self.recycled[layer, stop - 1].run_last(self.model, layer, states, stop, cache)

    def logits(self, logits: Float[Tensor, "step d_vocab"], start: int) -> Tensor:
        """Logits of steps from `start` on, as the actions changed them."""
        acting = [action for action in self.actions if action.changes_logits]
        for action in acting:
            changed = [
                action.logits(part, [self.rewound.at(len(self.trace.prompt_ids) + step)])
                for step, part in enumerate(logits.split(1), start)
            ]
            logits = torch.cat(changed)
        return logits


def replay_of(model: Model, trace: Trace, condition: ReadUnder = "as generated") -> Replay:
    """What acts on a trace while the model reads it.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        trace: The trace.
        condition: "as generated", or None for nothing.

    Raises:
        ValueError: If the trace does not hold all settings of its interventions, or these do not
            fit the model.
    """
    if condition not in ("as generated", None):
        raise ValueError(f"condition={condition!r}: expected 'as generated' or None")
    interventions = interventions_of(trace) if condition else ()
    return Replay(model, trace, [intervention.bind(model) for intervention in interventions])


def changes_states(trace: Trace, condition: ReadUnder) -> bool:
    """Whether the states of a trace may depend on interventions."""
    return bool(condition and trace.condition.get("interventions"))


def interventions_of(trace: Trace) -> Sequence[Intervention]:
    """The interventions that a trace was written under.

    Raises:
        ValueError: If the trace was read from a file, in which a hash stands for a vector.
    """
    if trace.interventions:
        return trace.interventions
    interventions = []
    for settings in trace.condition.get("interventions", ()):
        if hashed := _hashed(settings):
            raise ValueError(
                f"trace {trace.id} was written under {settings['kind']}, and its file holds only a "
                f"hash of {', '.join(hashed)}; give the condition back with "
                "mi_lens.with_condition(traces, condition), or read the trace with condition=None, "
                "which gives states that the model did not have while it wrote"
            )
        interventions.append(from_json(settings))
    return interventions


def _hashed(settings: dict[str, Any]) -> list[str]:
    """The settings in whose place a hash stands, also those of an intervention inside."""
    inside = [value for value in settings.values() if isinstance(value, dict)]
    names = [k for k, v in settings.items() if isinstance(v, dict) and "hash" in v]
    return names + [name for value in inside for name in _hashed(value)]


def with_condition(traces: Sequence[Trace], condition: Condition) -> list[Trace]:
    """Traces read from a file, with the interventions that they were written under.

    Args:
        traces: Traces of one condition.
        condition: That condition.

    Raises:
        ValueError: If a trace was written under other interventions.
    """
    described = condition.describe()["interventions"]
    for trace in traces:
        if (written := trace.condition.get("interventions", [])) != described:
            raise ValueError(
                f"trace {trace.id} was written under the interventions {written}, and the "
                f"condition {condition.name!r} has {described}; give the trace's own condition"
            )
    return [trace.under(condition.interventions) for trace in traces]
