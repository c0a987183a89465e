"""States of token sequences, passed on segment by segment while a model reads the sequences.

The callers decide what happens to the states: `capture` keeps them in memory, `capture_to_disk`
writes them to disk, and `by_hook` gives those of one hook name after another to be measured.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_lens.interventions.replay import Replay
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import HEADS, resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.models.one_thread import only_thread
from mi_lens.models.overflow import require_finite
from mi_lens.models.padding import left_pad
from mi_lens.models.self_check import require_able
from mi_lens.states.host_copies import HostCopies
from mi_lens.states.shard import States

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
    launched: Callable[[], None] = lambda: None,
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
        launched: Called after each segment. A device that works behind the host may be reading it
            still.

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
            launched()
    return cache


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
    memory holds the states of one segment at one hook name at a time; if the model is not on the
    CPU, its device holds those of two segments at all hook names (see `HostCopies`).

    Args:
        model: A HookedTransformer or TransformerBridge.
        sequences: Token ids, one sequence per row.
        hook_names: Names of activations of shape (batch, pos, d), or of the heads' `attn.hook_z`.
        positions: For every row, the wanted positions in increasing order.
        take: A function that is called with a row, a hook name and the states of the row's wanted
            positions in a segment, on the CPU. The states may be a view of the model's activation.
            Copy them to keep them.
        replay: What acts on the only sequence; see `read_in_segments`.

    Raises:
        ValueError: If a hook name does not exist or its activation is not of shape (batch, pos, d);
            if a sequence is empty or longer than the model's context; if the positions are not
            increasing or lie outside their sequence; or if a wanted state is not finite.
    """
    taken: Counter[tuple[int, str]] = Counter()

    def take_finite(row: int, name: str, part: Float[Tensor, "part d"], finite: bool) -> None:
        if not finite:
            _require_finite(part, row, name, positions[row][taken[row, name] :])
        taken[row, name] += len(part)
        take(row, name, part)

    copies = HostCopies(take_finite)
    _watch(model, sequences, hook_names, positions, copies.see, replay, copies.segment_launched)
    copies.finish()


def states_beside(
    model: Model,
    sequences: Sequence[Sequence[int]],
    hook_names: Sequence[str],
    positions: Sequence[Sequence[int]],
    replay: Replay | None = None,
) -> list[States]:
    """States at chosen positions of token sequences, on the device where the model has them.

    Arguments, errors and result are those of `states_at`; only the place differs.
    """
    kept = _Kept(positions)
    _watch(model, sequences, hook_names, positions, kept.add, replay)
    for row, states in enumerate(kept.states):
        for name, of_row in states.items():
            _require_finite(of_row, row, name, positions[row])
    return kept.states


def _require_finite(
    states: Float[Tensor, "part d"], row: int, name: str, places: Sequence[int]
) -> None:
    at = f"{name}: the state of sequence {row} at position"
    require_finite(states, lambda place: f"{at} {places[place]}")


@torch.no_grad()  # Not inference mode, because the caller may change the states.
def _watch(
    model: Model,
    sequences: Sequence[Sequence[int]],
    hook_names: Sequence[str],
    positions: Sequence[Sequence[int]],
    see: Take,
    replay: Replay | None,
    launched: Callable[[], None] = lambda: None,
) -> None:
    """Calls `see` in every hook with the states of each row's wanted positions in the segment."""
    names = resolve_hook_names(model, hook_names)
    for row, (ids, chosen) in enumerate(zip(sequences, positions, strict=True)):
        if not 0 < len(ids) <= model.cfg.n_ctx:
            raise ValueError(
                f"sequence {row} has {len(ids)} tokens; expected 1 to the model's context, "
                f"{model.cfg.n_ctx}"
            )
        require_increasing(f"positions of sequence {row}", chosen, len(ids))
    at_least = replay.at_once if replay else 0
    needed = [
        ids[: max(chosen[-1] + 1, at_least)]
        for ids, chosen in zip(sequences, positions, strict=True)
    ]
    width = max(map(len, needed))
    columns = [
        torch.tensor(chosen) + width - len(ids)
        for ids, chosen in zip(needed, positions, strict=True)
    ]

    def hooks(start: int, stop: int) -> list[tuple[str, Callable[..., None]]]:
        here = [column[(column >= start) & (column < stop)] - start for column in columns]
        wanted = {
            row: _index(column, model.cfg.device) for row, column in enumerate(here) if len(column)
        }
        # A bridge may call a hook by another of its names. `see` gets the name that was asked for.
        hand_on = partial(_hand_on, wanted=wanted, width=stop - start, see=see)
        return [(name, partial(hand_on, name=name)) for name in names]

    read_in_segments(model, needed, hooks, replay=replay, launched=launched)


def _index(column: Int[Tensor, " part"], device: Any) -> slice | Int[Tensor, " part"]:
    """Columns as an index. A slice gives a view and saves a copy; usually all are wanted."""
    first, last = int(column[0]), int(column[-1])
    if last - first + 1 == len(column):
        return slice(first, last + 1)
    return column.to(device)


def _hand_on(
    activation: Tensor,
    hook: Any,
    *,
    name: str,
    wanted: Mapping[int, slice | Int[Tensor, "_"]],
    width: int,
    see: Take,
) -> None:
    """Passes on a segment's states at each row's wanted columns."""
    activation = activation.flatten(2) if HEADS.fullmatch(name) else activation  # side by side
    if activation.ndim != 3 or activation.shape[1] != width:
        raise ValueError(
            f"hook name {name!r} holds an activation of shape {tuple(activation.shape)}; expected "
            "(batch, pos, d)"
        )
    for row, index in wanted.items():
        if isinstance(index, slice):
            see(row, name, activation[row][index])
        else:  # Layers may lie on several devices.
            see(row, name, activation[row][index.to(activation.device)])


class _Kept:
    """States put together from their parts, on the device of the parts."""

    def __init__(self, positions: Sequence[Sequence[int]]):
        self._positions = positions
        self._filled: Counter[tuple[int, str]] = Counter()
        self.states: list[States] = [{} for _ in positions]

    def add(self, row: int, name: str, part: Float[Tensor, "part d"]) -> None:
        # The tensor gets its full size at once: joining parts would take twice the memory.
        if name not in self.states[row]:
            shape = (len(self._positions[row]), part.shape[1])
            self.states[row][name] = torch.empty(shape, dtype=part.dtype, device=part.device)
        first = self._filled[row, name]
        self.states[row][name][first : first + len(part)] = part
        self._filled[row, name] += len(part)


def require_increasing(what: str, chosen: Sequence[int], length: int) -> None:
    """Raises a ValueError unless the numbers increase and lie between 0 and length - 1."""
    ordered = all(a < b for a, b in pairwise(chosen))
    if not chosen or not ordered or chosen[0] < 0 or chosen[-1] >= length:
        raise ValueError(
            f"{what}: {list(chosen)[:8]}{'...' if len(chosen) > 8 else ''}; expected at least one "
            f"number, in increasing order, from 0 to {length - 1}"
        )


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
    kept = _Kept(positions)
    stream_states(model, sequences, hook_names, positions, kept.add, replay)
    return kept.states


def widths(model: Model, hook_names: Sequence[str]) -> dict[str, int]:
    """The width d of every hook name's activation, in order. The model reads a token to tell it.

    The model may be an outline, whose states have a width and no values.

    Raises:
        ValueError: For the same reasons as `stream_states`.
    """
    if not hook_names:
        return {}
    found: dict[str, int] = {}

    def note(row: int, name: str, states: Float[Tensor, "1 d"]) -> None:
        found[name] = states.shape[1]

    _watch(model, [[0]], hook_names, [[0]], note, None)
    return {name: found[name] for name in hook_names}
