"""States of token sequences, passed on segment by segment while a model reads the sequences.

The callers decide what happens to the states: `capture` keeps them in memory, and `capture_to_disk`
writes them to disk.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.common.progress import Progress
from mi_lens.interventions.replay import ReadUnder, Replay, changes_states, replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.models.one_thread import only_thread
from mi_lens.models.overflow import require_finite
from mi_lens.models.padding import left_pad
from mi_lens.models.processed_weights import require_unprocessed
from mi_lens.models.self_check import require_able
from mi_lens.states.shard import States
from mi_lens.traces.trace import Trace

SEGMENT = 512  # Positions per segment. This limits the memory of the attention scores.

# Receives (row, hook name, states of the row's next wanted positions, in order).
Take = Callable[[int, str, Float[Tensor, "part d"]], None]
# Returns the hooks of a segment as (name, hook) pairs. The arguments are the segment's first
# position and the position after its last. Positions are columns of the batch, whose rows are
# padded on the left.
SegmentHooks = Callable[[int, int], Sequence[tuple[str, Callable[..., None]]]]


def read_in_segments(
    model: Model,
    sequences: Sequence[Sequence[int]],
    hooks: SegmentHooks = lambda start, stop: (),
    *,
    length: int | None = None,
    replay: Replay | None = None,
) -> Any:
    """Runs the model on token sequences segment by segment, with a key-value cache as in decoding.

    Hooks see one segment at a time, and no logits are computed. Memory holds the model's cache and
    the working memory of one segment.

    Args:
        model: A HookedTransformer or TransformerBridge.
        sequences: Token ids, one sequence per row.
        hooks: A function that is called before each segment. It returns the hooks that are on the
            model during the segment.
        length: Number of positions per segment. None means `SEGMENT`.
        replay: What acts on the only sequence, before the hooks. None means nothing.

    Returns:
        The cache of all positions.

    Raises:
        ValueError: If the model failed its check at being read when it was loaded.
    """
    require_able(model, "read")
    backend = backend_of(model)
    tokens, mask = left_pad(sequences, device=model.cfg.device)
    width, length = tokens.shape[1], length or SEGMENT
    cache = backend.new_cache(model, len(sequences))
    segments = [(start, min(start + length, width)) for start in range(0, width, length)]
    with only_thread(model):
        for start, stop in replay.segments(width, length) if replay else segments:
            acting = replay.hooks(start, stop, cache) if replay else []
            with model.hooks(fwd_hooks=[*acting, *hooks(start, stop)]):
                backend.step(model, tokens[:, start:stop], mask[:, :stop], cache, logits_to_keep=0)
    return cache


@torch.no_grad()  # Not inference mode, because the caller may change the states.
def stream_states(
    model: Model,
    sequences: Sequence[Sequence[int]],
    hook_names: Sequence[str],
    positions: Sequence[Sequence[int]],
    take: Take,
    replay: Replay | None = None,
) -> None:
    """Passes the states at chosen positions of token sequences to a function, segment by segment.

    The model reads the batch with `read_in_segments`, up to the last wanted position. In addition,
    memory holds the states of one segment at one hook name at a time.

    Args:
        model: A HookedTransformer or TransformerBridge.
        sequences: Token ids, one sequence per row.
        hook_names: Hook names of activations of shape (batch, pos, d).
        positions: For every row, the wanted positions in increasing order.
        take: A function that is called with a row, a hook name and the states of the row's wanted
            positions in the current segment. The states may be a view of the model's activation, on
            the model's device. Copy them to keep them.
        replay: What acts on the only sequence; see `read_in_segments`.

    Raises:
        ValueError: If a hook name does not exist or its activation is not of shape (batch, pos, d);
            if a sequence is empty or longer than the model's context; if the positions are not
            increasing or lie outside their sequence; or if a wanted state is not finite.
    """
    names = resolve_hook_names(model, hook_names)
    for row, (ids, chosen) in enumerate(zip(sequences, positions, strict=True)):
        if not 0 < len(ids) <= model.cfg.n_ctx:
            raise ValueError(
                f"sequence {row} has {len(ids)} tokens; expected 1 to the model's context, "
                f"{model.cfg.n_ctx}"
            )
        require_increasing(f"positions of sequence {row}", chosen, len(ids))
    at_least = replay.rewound.first if replay else 0  # the first step is read whole
    needed = [
        ids[: max(chosen[-1] + 1, at_least)]
        for ids, chosen in zip(sequences, positions, strict=True)
    ]
    width = max(map(len, needed))
    columns = [
        torch.tensor(chosen) + width - len(ids)
        for ids, chosen in zip(needed, positions, strict=True)
    ]

    taken: Counter[tuple[int, str]] = Counter()

    def take_finite(row: int, name: str, part: Float[Tensor, "part d"]) -> None:
        places = positions[row][taken[row, name] :]
        at = f"{name}: the state of sequence {row} at position"
        require_finite(part, lambda place: f"{at} {places[place]}")
        taken[row, name] += len(part)
        take(row, name, part)

    def hooks(start: int, stop: int) -> list[tuple[str, Callable[..., None]]]:
        here = [column[(column >= start) & (column < stop)] - start for column in columns]
        # A bridge may call a hook by another of its names. `take` gets the name that was asked for.
        hand_on = partial(_hand_on, columns=here, width=stop - start, take=take_finite)
        return [(name, partial(hand_on, name=name)) for name in names]

    read_in_segments(model, needed, hooks, replay=replay)


def _hand_on(
    activation: Tensor,
    hook: Any,
    *,
    name: str,
    columns: Sequence[Int[Tensor, "_"]],
    width: int,
    take: Take,
) -> None:
    """Passes on a segment's states at each row's wanted columns."""
    if activation.ndim != 3 or activation.shape[1] != width:
        raise ValueError(
            f"hook name {name!r} holds an activation of shape {tuple(activation.shape)}; expected "
            "(batch, pos, d)"
        )
    for row, column in enumerate(columns):
        if len(column):
            take(row, name, _at(activation[row], column))


def require_increasing(what: str, chosen: Sequence[int], length: int) -> None:
    """Raises a ValueError unless the numbers increase and lie between 0 and length - 1."""
    ordered = all(a < b for a, b in pairwise(chosen))
    if not chosen or not ordered or chosen[0] < 0 or chosen[-1] >= length:
        raise ValueError(
            f"{what}: {list(chosen)[:8]}{'...' if len(chosen) > 8 else ''}; expected at least one "
            f"number, in increasing order, from 0 to {length - 1}"
        )


def _at(states: Float[Tensor, "pos d"], column: Int[Tensor, " part"]) -> Float[Tensor, "part d"]:
    first, last = int(column[0]), int(column[-1])
    if last - first + 1 == len(column):
        return states[first : last + 1]  # A view saves a copy. Usually all positions are wanted.
    return states[column.to(states.device)]


def last_states(
    model: Model,
    sequences: Sequence[Sequence[int]],
    hook_names: Sequence[str],
    lasts: Sequence[int],
) -> list[States]:
    """States at the last `lasts[row]` positions of token sequences, as `states_at` gives them."""
    positions = [
        range(len(ids) - last, len(ids)) for ids, last in zip(sequences, lasts, strict=True)
    ]
    return states_at(model, sequences, hook_names, positions)


def states_at(
    model: Model,
    sequences: Sequence[Sequence[int]],
    hook_names: Sequence[str],
    positions: Sequence[Sequence[int]],
    replay: Replay | None = None,
) -> list[States]:
    """States at chosen positions of token sequences, on the CPU in the model's dtype.

    The arguments are those of `stream_states`.

    Returns:
        For every row, a mapping from hook name to states of shape (positions, d).
    """
    states: list[States] = [{} for _ in sequences]
    filled: dict[tuple[int, str], int] = {}

    def keep(row: int, name: str, part: Tensor) -> None:
        # The tensor gets its full size at once: joining parts would take twice the memory.
        if name not in states[row]:
            shape = (len(positions[row]), part.shape[1])
            states[row][name] = torch.empty(shape, dtype=part.dtype)
        first = filled.get((row, name), 0)
        states[row][name][first : first + len(part)] = part
        filled[row, name] = first + len(part)

    stream_states(model, sequences, hook_names, positions, keep, replay)
    return states


def widths(model: Model, hook_names: Sequence[str]) -> dict[str, int]:
    """The width d of every hook name's activation. The model reads a single token to tell it.

    Raises:
        ValueError: For the same reasons as `stream_states`.
    """
    if not hook_names:
        return {}
    (states,) = last_states(model, [[0]], hook_names, [1])
    return {name: state.shape[1] for name, state in states.items()}


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
