"""Controls of the per-trace number: what it is worth, and what else could explain a peak.

MI(h_t; h_y) by HSIC is high wherever two vectors look alike coordinate by coordinate, whether or
not the likeness has to do with the answer. Each function here takes one such reason away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

from mi_lens.common.statistics import Estimate, estimate_mean, spearman
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import find_peaks


@dataclass(frozen=True)
class Calibration:
    """A trajectory beside the trajectories of the same states with other problems' answers.

    All p-values are right if the gold answer is exchangeable with the n others, and none is ever
    below 1 / (1 + n).

    Attributes:
        others: n, the number of other answers.
        raw: MI(h_t; h_y), one value a step.
        mean: Mean over the other answers of MI(h_t; h_y').
        std: Their standard deviation (sample).
        specific: (raw - mean) / std; 0 where the other answers have no spread.
        p_values: Of each step alone: the rank of the raw value among the other answers'.
        q_values: p_values adjusted over the steps (Benjamini and Hochberg). With n other answers
            k peaks among T steps can only be found at level q if n >= T / (k q).
        family_p_values: The rank of the specific part among the *highest* specific parts that the
            other answers reach anywhere on the trace, each taken for the gold one in turn
            (Westfall and Young). Controls the chance of any false peak, however steps depend on
            one another, and needs only n >= 1 / level.
    """

    others: int
    raw: Float[np.ndarray, " step"]
    mean: Float[np.ndarray, " step"]
    std: Float[np.ndarray, " step"]
    specific: Float[np.ndarray, " step"]
    p_values: Float[np.ndarray, " step"]
    q_values: Float[np.ndarray, " step"]
    family_p_values: Float[np.ndarray, " step"]

    def band(self) -> tuple[list[float], list[float]]:
        """Where 95 % of other answers lie, by their mean and spread: low and high, to be drawn."""
        half = 1.96 * self.std
        return (self.mean - half).tolist(), (self.mean + half).tolist()

    def peaks(
        self,
        rule: PeakRule = PAPER_RULE,
        level: float = 0.05,
        control: Literal["family", "fdr"] = "family",
    ) -> Int[np.ndarray, " peak"]:
        """Peaks of the specific part that are significant at a level.

        Args:
            rule: As in `find_peaks`.
            level: Of the error that is controlled.
            control: "family" by family_p_values, which controls false discovery as well; "fdr" by
                q_values.
        """
        if control not in ("family", "fdr"):
            raise ValueError(f"control={control!r}: expected 'family' or 'fdr'")
        p_values = self.family_p_values if control == "family" else self.q_values
        peaks = find_peaks(self.specific, rule)
        return peaks[p_values[peaks] <= level]


def mismatched_gold(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    others: Float[Tensor, "other d"],
    *,
    sigma: float = 50.0,
    eps: float = 1e-5,
) -> Calibration:
    """The same states against the answers of other problems.

    Args:
        states: States of a trace.
        answer: Its gold answer state, at the same hook name.
        others: Answer states of other problems, read in the same way; at least two.
        sigma: As in `hsic_mi`.
        eps: As in `hsic_mi`.

    Raises:
        ValueError: With fewer than two other answers, or as `hsic_mi`.
    """
    n = len(others)
    if n < 2:
        raise ValueError(
            f"{n} other answers: a spread takes at least 2, and small p-values many more (64 give "
            "0.015 at least)"
        )
    everything = torch.cat([answer[None], others])
    mi = hsic_mi(states, everything, sigma=sigma, eps=eps).cpu().numpy()
    specific = _each_against_the_others(mi)
    p_values = (1 + (mi[:, 1:] >= mi[:, :1]).sum(1)) / (1 + n)
    highest = specific[:, 1:].max(0)
    return Calibration(
        others=n,
        raw=mi[:, 0],
        mean=mi[:, 1:].mean(1),
        std=mi[:, 1:].std(1, ddof=1),
        specific=specific[:, 0],
        p_values=p_values,
        q_values=false_discovery_control(p_values),
        family_p_values=(1 + (highest >= specific[:, :1]).sum(1)) / (1 + n),
    )


def _each_against_the_others(
    mi: Float[np.ndarray, "step answer"],
) -> Float[np.ndarray, "step answer"]:
    """For every answer, its value less the mean of all others', over their standard deviation."""
    n = mi.shape[1] - 1
    centred = mi - mi.mean(1, keepdims=True)  # The sums below must not cancel.
    mean = -centred / n
    variance = ((centred**2).sum(1, keepdims=True) - centred**2 - n * mean**2) / (n - 1)
    # Below rounding there is no spread, and nothing can be told.
    spread = np.sqrt(np.where(variance > (1e-12 * mi) ** 2, variance, np.inf))
    return (centred - mean) / spread


def permuted_coordinates(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    *,
    permutations: int = 64,
    seed: int = 0,
    sigma: float = 50.0,
    eps: float = 1e-5,
) -> Float[np.ndarray, "permutation step"]:
    """MI of the states with the answer's own values in another order of coordinates.

    What is left has nothing to do with which coordinate is which: it is the estimator's floor for
    these values.
    """
    generator = torch.Generator().manual_seed(seed)
    d = answer.shape[-1]
    orders = torch.stack([torch.randperm(d, generator=generator) for _ in range(permutations)])
    shuffled = answer[orders.to(answer.device)]
    return hsic_mi(states, shuffled, sigma=sigma, eps=eps).T.cpu().numpy()


def massive_coordinates(
    states: Float[Tensor, "step d"], answer: Float[Tensor, " d"], ratio: float = 30.0
) -> Bool[Tensor, " d"]:
    """Which coordinates are massive activations.

    The rule: a coordinate whose magnitude is more than `ratio` times the median magnitude of its
    vector, in the answer state or in at least half of the steps. A single such coordinate, shared
    by otherwise independent vectors, already gives an MI of 0.6 to 1.
    """

    def far(vectors: Tensor) -> Tensor:
        magnitude = vectors.abs().double()
        return magnitude > ratio * magnitude.median(-1, keepdim=True).values

    return far(answer) | (far(states).double().mean(0) >= 0.5)


def without_massive(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    *,
    ratio: float = 30.0,
    sigma: float = 50.0,
    eps: float = 1e-5,
) -> Float[np.ndarray, " step"]:
    """The trajectory with massive coordinates removed from states and answer."""
    kept = ~massive_coordinates(states, answer, ratio)
    return hsic_mi(states[:, kept], answer[kept], sigma=sigma, eps=eps).cpu().numpy()


def sigma_sweep(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    sigmas: Sequence[float],
    *,
    eps: float = 1e-5,
) -> Float[np.ndarray, "sigma step"]:
    """The trajectory at each kernel width."""
    return np.stack([hsic_mi(states, answer, sigma=s, eps=eps).cpu().numpy() for s in sigmas])


def scale_sweep(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    scales: Sequence[float],
    *,
    sigma: float = 50.0,
    eps: float = 1e-5,
) -> Float[np.ndarray, "scale step"]:
    """The trajectory had all activations been larger by each factor.

    The kernel sees coordinates over sigma only, so scaling them by c is dividing sigma by c.
    """
    return sigma_sweep(states, answer, [sigma / scale for scale in scales], eps=eps)


def covariates(
    states: Float[Tensor, "step d"], uncertainty: Mapping[str, Float[np.ndarray, " step"]]
) -> dict[str, Float[np.ndarray, " step"]]:
    """What else changes along a trace and could explain its peaks.

    Args:
        states: States of the trace; their norm is one covariate.
        uncertainty: Entropy and surprisal, as `next_token_uncertainty` gives them.
    """
    return {
        **uncertainty,
        "norm": torch.linalg.vector_norm(states.double(), dim=-1).cpu().numpy(),
        "position": np.arange(len(states), dtype=float),
    }


def correlates(
    trajectories: Sequence[Float[np.ndarray, "_"]],
    explanations: Sequence[Mapping[str, Float[np.ndarray, "_"]]],
) -> dict[str, Estimate]:
    """Rank correlation (Spearman) of trajectories with each covariate, within traces.

    Args:
        trajectories: One a trace.
        explanations: For every trace, name to one value a step, as `covariates` gives them.

    Returns:
        For every covariate the mean over traces, with its interval; traces in which either does
        not vary do not count.

    Raises:
        ValueError: If there are no traces, or lengths differ.
    """
    if not trajectories or len(trajectories) != len(explanations):
        raise ValueError(
            f"{len(trajectories)} trajectories and {len(explanations)} sets of covariates; "
            "expected one of each a trace, at least one"
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
