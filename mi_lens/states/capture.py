"""States of finished traces, computed again by teacher forcing."""

from collections.abc import Sequence

from mi_lens.models.model import Model
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
    model: Model,
    traces: Sequence[Trace],
    hook_names: Sequence[str],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[States]:
    """States of generated steps. Row t of a trace's states is the state that emits token t.

    All states are kept in memory. `capture_into` writes them to disk while the model reads.

    Args:
        model: The model whose states are wanted: a HookedTransformer or TransformerBridge.
        traces: Finished traces, generated or imported.
        hook_names: Hook names such as "blocks.20.hook_resid_post".
        steps: For every trace, the wanted steps in increasing order. The result has one row per
            wanted step. None means all steps. The model does not read a trace beyond its last
            wanted step.
        batch_size: Number of traces that the model reads together. It changes speed and memory, not
            the states.
        progress: Whether to show the progress on stderr (`mi_lens.generate`).

    Returns:
        For every trace, a mapping from hook name to states of shape (step, d), on the CPU in the
        model's dtype.

    Raises:
        ValueError: If there are no traces or no hook names; if a hook name does not exist; if the
            steps are not increasing or lie outside their trace; if a trace is empty, is longer than
            the context or holds a token that the model lacks; or if the model's weights were
            processed, because processing changes the residual stream.
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
