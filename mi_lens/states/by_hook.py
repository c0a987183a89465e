"""A trace's states at one hook name after another, where the model is: to be measured, not kept."""

from collections.abc import Iterator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from mi_lens.models.attached_hooks import require_hooks_of_traces
from mi_lens.models.model import Model
from mi_lens.states.segments import states_beside, widths
from mi_lens.states.trace_batches import (
    positions_of,
    read_ids,
    replay_of_batch,
    require_readable,
)
from mi_lens.traces.trace import Trace

HELD = 2**30  # Bytes of states that are held at once, unless one hook name takes more.


def states_by_hook(
    model: Model, trace: Trace, hook_names: Sequence[str]
) -> Iterator[tuple[str, Float[Tensor, "step d"]]]:
    """The states of all steps at every hook name, one hook name after another.

    The model reads the trace as often as it takes to hold at most `HELD` bytes of states: once for
    as many hook names as fit. Nothing is copied to the host.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace. It is read under its own interventions.
        hook_names: Hook names of activations of shape (batch, pos, d).

    Yields:
        A hook name and its states, on the device of the layer, in the order of `hook_names`.

    Raises:
        ValueError: As `StateStore.capture`.
    """
    require_hooks_of_traces(model, [trace.condition.get("hooks", "")])
    require_readable(model, [trace], hook_names)
    for names in passes(widths(model, hook_names), len(trace) * model.cfg.dtype.itemsize):
        (states,) = states_beside(
            model,
            [read_ids(trace)],
            names,
            [positions_of(trace, range(len(trace)))],
            replay_of_batch(model, [trace], "as generated"),
        )
        for name in names:
            yield name, states.pop(name)


def passes(width_of: Mapping[str, int], bytes_per_coordinate: int) -> list[list[str]]:
    """Hook names that are read together, in order: as many as fit into `HELD` bytes, at least one.

    Args:
        width_of: The width of every hook name.
        bytes_per_coordinate: The bytes of a coordinate at all steps.
    """
    groups: list[list[str]] = []
    room = 0
    for name, width in width_of.items():
        size = width * bytes_per_coordinate
        if not groups or size > room:
            groups.append([])
            room = HELD
        groups[-1].append(name)
        room -= size
    return groups
