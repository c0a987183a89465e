"""MI trajectories: the estimator along the steps of a trace, at every hook name."""

from collections.abc import Mapping, Sequence
from typing import Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.information.per_trace.hsic import Estimator, hsic_mi
from mi_lens.states.activation_cache import Cache, require_answer, require_states, states_of
from mi_lens.traces.trace import Trace


@overload
def mi_trajectories(
    activations: Cache,
    answer_state: Mapping[str, Float[Tensor, "d"]],
    *,
    trace: Trace | None = None,
    sigma: float | Literal["median"] = 50.0,
    eps: float = 1e-5,
    estimator: Estimator = "normalized",
) -> Float[Tensor, "hook step"]: ...


@overload
def mi_trajectories(
    activations: Sequence[Cache],
    answer_state: Sequence[Mapping[str, Float[Tensor, "d"]]],
    *,
    trace: Sequence[Trace] | None = None,
    sigma: float | Literal["median"] = 50.0,
    eps: float = 1e-5,
    estimator: Estimator = "normalized",
) -> list[Float[Tensor, "hook _"]]: ...


def mi_trajectories(activations, answer_state, *, trace=None, **settings):
    """MI trajectories of one trace at every hook name, in the order of `activations`.

    Args:
        activations: The trace's states at every hook name, each of shape (step, d), as `capture`
            and `states_of` return them; or an ActivationCache, together with `trace`. A list of
            these, one for each trace, gives a list of results.
        answer_state: The answer state at each of the same hook names, shape (d,); a list of these
            for a list of traces.
        trace: The trace whose states these are. If it is given, states of other positions than its
            steps are refused.
        settings: `sigma`, `eps` and `estimator`, as in `hsic_mi`.

    Raises:
        ValueError: If the hook names or the numbers of steps differ, if the states are not those of
            the steps of one trace, if a cache comes without its trace, or for the same reasons as
            `hsic_mi`.
    """
    if isinstance(activations, Sequence):
        traces = [None] * len(activations) if trace is None else trace
        if not isinstance(answer_state, Sequence) or not (
            len(activations) == len(answer_state) == len(traces)
        ):
            raise ValueError(
                f"the states of {len(activations)} traces; expected a list of as many answer "
                "states, as answer_state(model, problems, hook_names) returns, and of as many "
                "traces if these are given"
            )
        return [
            mi_trajectories(states, answer, trace=of, **settings)
            for states, answer, of in zip(activations, answer_state, traces, strict=True)
        ]
    if not isinstance(answer_state, Mapping):
        raise ValueError(
            f"answer_state: an object of type {type(answer_state).__name__}; expected a mapping "
            "from hook name to state, as answer_state(model, problem, hook_names) returns"
        )
    if not isinstance(activations, Mapping):
        if trace is None:
            raise ValueError(
                "an ActivationCache has rows for the prompt too: give its trace, "
                "mi_trajectories(cache, answer, trace=trace)"
            )
        activations = states_of(activations, trace, list(answer_state.keys()))
    if not activations:
        raise ValueError("activations is empty; expected the states of at least one hook name")
    if activations.keys() != answer_state.keys():
        alone = sorted(activations.keys() ^ answer_state.keys())
        raise ValueError(
            f"activations and answer_state must have the same hook names; not in both: {alone}"
        )
    for name, states in activations.items():
        require_states(states, name, None if trace is None else len(trace))
        require_answer(answer_state[name], f"answer_state at {name}")
    steps = {hook: len(states) for hook, states in activations.items()}
    if len(set(steps.values())) > 1:
        raise ValueError(f"every hook name needs the same number of steps, got {steps}")
    return torch.stack(
        [hsic_mi(states, answer_state[hook], **settings) for hook, states in activations.items()]
    )
