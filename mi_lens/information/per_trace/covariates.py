"""Other explanations of a peak: what else changes along a trace, and how MI goes with it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isnan

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.information.per_trace.kernel_features import rows_at_once
from mi_lens.states.activation_cache import require_states


def covariates(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    next_token: Mapping[str, Float[np.ndarray, " step"]],
) -> dict[str, Float[np.ndarray, " step"]]:
    """Other quantities that change along a trace and could explain its peaks.

    Args:
        states: States of the trace. Their norm is a covariate.
        answer: The answer state at the same hook name.
        next_token: What the model expects next: entropy and surprisal, as `next_token_uncertainty`
            returns them, and the values of `next_token_similarity`.

    Returns:
        `next_token`, "squared correlation", "norm" and "position", each with one value per step.
    """
    require_states(states)
    return {
        **next_token,
        "squared correlation": squared_correlation(states, answer),
        "norm": _by_rows(partial(torch.linalg.vector_norm, dim=-1), states),
        "position": np.arange(len(states), dtype=float),
    }


def squared_correlation(
    states: Float[Tensor, "step d"], answer: Float[Tensor, " d"]
) -> Float[np.ndarray, " step"]:
    """The squared Pearson correlation of each state's coordinates with the answer state's.

    Where all coordinates lie within a small part of sigma, the kernel is linear and MI says the
    same. It is 0 for a vector whose coordinates are all equal.
    """
    y = in_float64(answer) - in_float64(answer).mean()

    def squared(rows: Float[Tensor, "_ d"]) -> Float[Tensor, "_"]:
        x = rows - rows.mean(-1, keepdim=True)
        scale = (x.square().sum(-1) * y.square().sum()).clamp(min=torch.finfo(torch.float64).tiny)
        return ((x @ y).square() / scale).clamp(max=1)

    return _by_rows(squared, states)


def _by_rows(
    number: Callable[[Float[Tensor, "_ d"]], Float[Tensor, "_"]], states: Float[Tensor, "step d"]
) -> Float[np.ndarray, " step"]:
    """A number of each state. Only some states at a time are copied to float64."""
    parts = states.split(rows_at_once(4 * states.shape[1], states.device))
    return torch.cat([number(in_float64(part)) for part in parts]).cpu().numpy()


def correlates(
    trajectories: Sequence[Float[np.ndarray, "_"]],
    explanations: Sequence[Mapping[str, Float[np.ndarray, "_"]]],
) -> dict[str, Estimate]:
    """Rank correlation (Spearman) of trajectories with each covariate, within traces.

    Args:
        trajectories: One trajectory per trace.
        explanations: The covariates of each trace, as `covariates` returns them.

    Returns:
        For every covariate, the mean correlation over traces, with its interval. A trace does not
        count if its trajectory or its covariate is constant.

    Raises:
        ValueError: If there are no traces, or the lengths differ.
    """
    if not trajectories or len(trajectories) != len(explanations):
        raise ValueError(
            f"{len(trajectories)} trajectories and {len(explanations)} sets of covariates; "
            "expected one of each per trace, and at least one trace"
        )
    means = {}
    for name in explanations[0]:
        values = []
        for trace, (mi, explanation) in enumerate(zip(trajectories, explanations, strict=True)):
            other = explanation[name]
            if len(other) != len(mi):
                raise ValueError(
                    f"trace {trace} has {len(mi)} steps of MI and {len(other)} of {name}"
                )
            values.append(spearman(mi, other))
        means[name] = estimate_mean([value for value in values if not isnan(value)])
    return means
