"""The states of a trace's steps, cut from an ActivationCache of TransformerLens."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mi_lens.models.hook_names import HookNames, chosen_names, near
from mi_lens.states.shard import States
from mi_lens.traces.trace import Trace


@runtime_checkable
class Cache(Protocol):
    """What an ActivationCache and a mapping from hook name to activation have in common."""

    def keys(self) -> Iterable[str]:
        """The hook names."""
        ...

    def __getitem__(self, name: str, /) -> Tensor:
        """The activation at a hook name."""
        ...


def states_of(cache: Cache, trace: Trace, hook_names: HookNames = "*") -> States:
    """The states of a trace's steps in a cache. Row t is the state that emits token t.

    The model read the trace for the cache: `model.run_with_cache(tokens)` with the prompt's tokens
    and then the trace's. The cache has a row for every position, and step t is at position
    `len(trace.prompt_ids) - 1 + t`. Interventions of the trace act only if their hooks were on the
    model while it read (`Intervention.fwd_hooks`).

    Args:
        cache: An ActivationCache with or without its batch dimension, or a mapping from hook name
            to activation of shape (1, pos, d).
        trace: The trace that the model read.
        hook_names: Hook names, patterns such as "blocks.*.hook_resid_post", or a filter. A bridge
            caches an activation under each of its names.

    Returns:
        A mapping from hook name to states of shape (step, d), on the cache's device. Activations of
        another shape, such as attention patterns, are left out.

    Raises:
        ValueError: If the cache holds several rows, if its positions are not those of the trace, if
            the cache lacks a hook name, or if no activation has the shape (1, pos, d).
    """
    batched = getattr(cache, "has_batch_dim", True)
    names, lacking = chosen_names(list(cache.keys()), hook_names)
    if lacking:
        raise ValueError(f"the cache lacks {lacking[0]!r}{near(lacking[0], cache.keys())}")
    activations = {name: cache[name] for name in names}
    states = {}
    first = len(trace.prompt_ids) - 1
    positions = (first + len(trace), first + len(trace) + 1)
    for name, activation in activations.items():
        rows = activation if batched else activation[None]
        if rows.ndim != 3:
            continue
        if len(rows) != 1:
            raise ValueError(
                f"{name}: a cache of {len(rows)} rows; expected the row of trace {trace.id} alone. "
                "Read every trace by itself: padding would move its steps"
            )
        if rows.shape[1] not in positions:
            raise ValueError(
                f"{name}: a cache of {rows.shape[1]} positions; trace {trace.id} has "
                f"{len(trace.prompt_ids)} of its prompt and {len(trace)} steps. Read "
                "torch.tensor([[*trace.prompt_ids, *trace.token_ids]])"
            )
        states[name] = rows[0, first : first + len(trace)]
    if not states:
        raise ValueError(
            f"no activation of shape (1, pos, d) among {[*activations][:5]}; let the cache keep "
            "some, such as names_filter='blocks.0.hook_resid_post'"
        )
    return states


def require_states(states: Any, what: str = "states", steps: int | None = None) -> None:
    """Raises a ValueError unless these are the states of one trace, of shape (step, d).

    Args:
        states: What was given.
        what: What to call it.
        steps: The number of steps that the trace has; None if it is not known.
    """
    shape = _shape(states)
    if not isinstance(states, Tensor) or states.ndim != 2:
        raise ValueError(
            f"{what}: {shape}; expected one trace's states, a tensor of shape (step, d). Of a "
            "TransformerLens cache take states_of(cache, trace)[hook_name]"
        )
    if steps is not None and len(states) != steps:
        raise ValueError(
            f"{what}: {shape} for a trace of {steps} steps; expected one row per step. States of "
            "the prompt do not belong here: take states_of(cache, trace)[hook_name], or capture()"
        )


def require_answer(answer: Any, what: str = "answer") -> None:
    """Raises a ValueError unless this is one answer state, of shape (d,)."""
    if not isinstance(answer, Tensor) or answer.ndim != 1:
        raise ValueError(
            f"{what}: {_shape(answer)}; expected one answer's state, a tensor of shape (d,), as "
            "answer_state(model, problem, hook_names)[hook_name] is"
        )


def require_pair(states: Any, answer: Any) -> None:
    """Raises a ValueError unless these are the states of one trace and one answer state."""
    require_states(states)
    require_answer(answer)


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"an object of type {type(value).__name__}"
