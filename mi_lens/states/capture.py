"""States of finished traces, read again by teacher forcing."""

from collections.abc import Sequence

from mi_lens.states.segments import (
    States,
    capture_bar,
    positions_of,
    read_ids,
    require_increasing,
    require_readable,
    states_at,
)
from mi_lens.traces.trace import Trace


def capture(
    model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[States]:
    """States of generated steps: row t of a result is the state that emits token t.

    All of them stand in memory; `capture_into` writes them to disk as it reads.

    Args:
        model: The model whose states are wanted: a HookedTransformer or TransformerBridge.
        traces: Finished traces, generated or imported.
        hook_names: Such as "blocks.20.hook_resid_post".
        steps: For every trace the steps wanted, increasing, a row of the result each; None for
            all. A trace is not read beyond the last.
        batch_size: Traces read together; changes speed and memory, not states.
        progress: Shows a bar on a terminal's stderr.

    Returns:
        For every trace, hook name to states of shape (step, d), on the CPU in the model's dtype.

    Raises:
        ValueError: If there are no traces or hook names, a hook name does not exist, steps are not
            increasing ones of their trace, a trace is empty, longer than the context or holds a
            token this model does not have, or the model's weights were processed: its residual
            stream is another one.
    """
    require_readable(model, traces, hook_names)
    if steps is None:
        steps = [range(len(trace)) for trace in traces]
    states: list[States] = []
    with capture_bar(len(traces), progress) as bar:
        for start in range(0, len(traces), batch_size):
            batch = traces[start : start + batch_size]
            chosen = steps[start : start + batch_size]
            for trace, wanted in zip(batch, chosen, strict=True):
                require_increasing(f"trace {trace.id}: steps", wanted, len(trace))
            positions = list(map(positions_of, batch, chosen))
            states += states_at(model, list(map(read_ids, batch)), hook_names, positions)
            bar.update(len(batch))
    return states
