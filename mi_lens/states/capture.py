"""States of finished traces, computed again by teacher forcing."""

from collections.abc import Sequence

from mi_lens.interventions.replay import ReadUnder
from mi_lens.models.attached_hooks import require_hooks_still_on
from mi_lens.models.hook_names import HookNames, match_hook_names
from mi_lens.models.model import Model
from mi_lens.states.segments import States, require_increasing, states_at
from mi_lens.states.trace_batches import (
    batches,
    capture_bar,
    positions_of,
    read_ids,
    replay_of_batch,
    require_readable,
)
from mi_lens.traces.trace import Trace


def capture(
    model: Model,
    traces: Sequence[Trace],
    hook_names: HookNames,
    *,
    steps: Sequence[Sequence[int]] | None = None,
    condition: ReadUnder = "as generated",
    batch_size: int = 8,
    progress: bool = False,
) -> list[States]:
    """States of generated steps. Row t of a trace's states is the state that emits token t.

    All states are kept in memory. `capture_into` writes them to disk while the model reads.

    Args:
        model: The model whose states are wanted: a HookedTransformer or TransformerBridge.
        traces: Finished traces, generated or imported.
        hook_names: Hook names such as "blocks.20.hook_resid_post"; patterns such as
            "blocks.*.hook_resid_post"; or a function that takes a name and says whether it is
            wanted (`match_hook_names`).
        steps: For every trace, the wanted steps in increasing order. The result has one row per
            wanted step. None means all steps. The model does not read a trace beyond its last
            wanted step.
        condition: "as generated" reads a trace under the interventions that it was written under,
            at the same positions. None reads it without, which gives states that the model did not
            have while it wrote the trace.
        batch_size: Number of traces that the model reads together; a trace with interventions is
            read by itself. It changes speed and memory, not the states.
        progress: Whether to show the progress on stderr (`mi_lens.generate`).

    Returns:
        For every trace, a mapping from hook name to states of shape (step, d), on the CPU in the
        model's dtype.

    Raises:
        ValueError: If there are no traces or no hook names; if a hook name does not exist; if the
            steps are not increasing or lie outside their trace; if a trace is empty, is longer than
            the context or holds a token that the model lacks; if the model's weights were
            processed, because processing changes the residual stream; if a trace that was read
            from a file lacks the settings of its interventions (see `with_condition`); or if a
            trace was generated under named hooks of yours and none are on the model, unless
            `condition` is None.
    """
    names = match_hook_names(model, hook_names)
    require_readable(model, traces, names)
    if condition is not None:
        require_hooks_still_on(model, [trace.condition.get("hooks", "") for trace in traces])
    if steps is None:
        steps = [range(len(trace)) for trace in traces]
    for trace, wanted in zip(traces, steps, strict=True):
        require_increasing(f"trace {trace.id}: steps", wanted, len(trace))
    states: list[States] = [{} for _ in traces]
    with capture_bar(len(traces), progress) as bar:
        for places in batches(traces, batch_size, condition):
            batch = [traces[place] for place in places]
            positions = [positions_of(traces[place], steps[place]) for place in places]
            replay = replay_of_batch(model, batch, condition)
            read = states_at(model, list(map(read_ids, batch)), names, positions, replay)
            for place, state in zip(places, read, strict=True):
                states[place] = state
            bar.update(len(batch))
    return states
