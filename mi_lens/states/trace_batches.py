"""Traces as batches that a model reads, and the positions of their steps."""

from collections.abc import Iterator, Sequence

from mi_lens.common.progress import Progress
from mi_lens.interventions.replay import ReadUnder, Replay, changes_states, replay_of
from mi_lens.models.model import Model
from mi_lens.models.processed_weights import require_unprocessed
from mi_lens.traces.trace import Trace


def require_readable(model: Model, traces: Sequence[Trace], hook_names: Sequence[str]) -> None:
    """Raises a ValueError if the model cannot read the traces. The message says why."""
    require_unprocessed(model)
    if not traces:
        raise ValueError("no traces to capture; expected at least one")
    if not hook_names:
        raise ValueError(
            "no hook names to capture; expected at least one, such as 'blocks.0.hook_resid_post'"
        )
    for trace in traces:
        if not len(trace):
            raise ValueError(f"trace {trace.id} is empty: it has no steps to capture")
        if (largest := max(*trace.prompt_ids, *trace.token_ids)) >= model.cfg.d_vocab:
            raise ValueError(
                f"trace {trace.id} holds token {largest} and this model's vocabulary has "
                f"{model.cfg.d_vocab} tokens; import the trace's text with Trace.from_text and "
                "this model's tokenizer"
            )


def batches(
    traces: Sequence[Trace], batch_size: int, condition: ReadUnder
) -> Iterator[Sequence[int]]:
    """The places of traces to read together; a trace with interventions is read by itself."""
    waiting: list[int] = []
    for place, trace in enumerate(traces):
        if changes_states(trace, condition):
            yield [place]
            continue
        waiting.append(place)
        if len(waiting) == batch_size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def replay_of_batch(model: Model, batch: Sequence[Trace], condition: ReadUnder) -> Replay | None:
    """What acts on a batch that `batches` made: on its only trace, or nothing."""
    if len(batch) == 1 and changes_states(batch[0], condition):
        return replay_of(model, batch[0], condition)
    return None


def read_ids(trace: Trace) -> tuple[int, ...]:
    """The tokens that the model reads of a trace: all but the last, which it only emits."""
    return (*trace.prompt_ids, *trace.token_ids[:-1])


def positions_of(trace: Trace, steps: Sequence[int]) -> Sequence[int]:
    """The positions of the steps' states, which are the positions that emit the steps' tokens."""
    first = len(trace.prompt_ids) - 1
    if isinstance(steps, range):
        return range(first + steps.start, first + steps.stop, steps.step)
    return [first + step for step in steps]


def capture_bar(traces: int, progress: bool) -> Progress:
    """The progress of reading traces, shown only if `progress` is true."""
    return Progress(traces, "capture", "trace", progress)
