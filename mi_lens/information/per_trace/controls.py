"""Controls of the per-trace MI: other reasons for its value.

MI(h_t; h_y) by HSIC is high if two vectors are similar coordinate by coordinate, whether or not
this similarity has to do with the answer. Each control here tests such a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.information.per_trace.hsic import hsic_mi
from mi_lens.information.per_trace.kernel_features import rows_at_once
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.peaks import MINIMUM_STEPS, find_peaks
from mi_lens.states.activation_cache import require_pair, require_states

LEVEL = 0.05  # The level at which peaks of the specific part are significant.


def others_needed(level: float = LEVEL) -> int:
    """How many other answers it takes for a p-value to reach a level: 1 / (1 + n) <= level."""
    return ceil(1 / level - 1e-9) - 1


@dataclass(frozen=True)
class Calibration:
    """A trajectory with the gold answer, compared with trajectories with other problems' answers.

    All trajectories have the same states. The p-values are valid if the gold answer is exchangeable
    with the n other answers. They are never below 1 / (1 + n).

    Attributes:
        others: n, the number of other answers.
        raw: MI(h_t; h_y), one value per step.
        mean: Mean over the other answers of MI(h_t; h_y'), one value per step.
        std: Sample standard deviation over the other answers, one value per step.
        specific: (raw - mean) / std, or 0 where the other answers have no spread.
        p_values: For each step alone, the p-value from the rank of the raw value among the other
            answers' values.
        q_values: p_values adjusted over the steps (Benjamini and Hochberg). With n other answers,
            k peaks among T steps can reach level q only if n >= T / (k q).
        family_p_values: For each step, the p-value from the rank of the specific part among the
            other answers' *highest* specific parts on the trace. To get these, each other answer
            takes the place of the gold answer in turn (Westfall and Young). These p-values control
            the probability of any false peak, however the steps depend on each other, and need only
            n >= 1 / level.
        chance_peaks: How many significant peaks (`peaks`, by the rule that the calibration was
            made with) another problem's answer has in the place of the gold one, against the
            remaining others: the mean over the other answers. None if these are too few for any
            peak to be significant, or in files of an earlier version.
        chance_shared: How many of these are also peaks of that answer's own MI; None as above.
    """

    others: int
    raw: Float[np.ndarray, " step"]
    mean: Float[np.ndarray, " step"]
    std: Float[np.ndarray, " step"]
    specific: Float[np.ndarray, " step"]
    p_values: Float[np.ndarray, " step"]
    q_values: Float[np.ndarray, " step"]
    family_p_values: Float[np.ndarray, " step"]
    chance_peaks: float | None = None
    chance_shared: float | None = None

    def __repr__(self) -> str:
        highest = f"{self.specific.max():.3g}" if len(self.specific) else "none"
        return (
            f"Calibration({len(self.specific):,} steps, {self.others} other answers, highest "
            f"specific part {highest})"
        )

    def band(self) -> tuple[list[float], list[float]]:
        """The range of 95 % of the other answers, for plots: mean -+ 1.96 std, low and high."""
        half = 1.96 * self.std
        return (self.mean - half).tolist(), (self.mean + half).tolist()

    def decides(self, level: float = LEVEL) -> bool:
        """Whether there are enough other answers for any peak to be significant at a level."""
        return self.others >= others_needed(level)

    def peaks(
        self,
        rule: PeakRule = PAPER_RULE,
        level: float = LEVEL,
        control: Literal["family", "fdr"] = "family",
    ) -> Int[np.ndarray, " peak"]:
        """Peaks of the specific part that are significant at a level.

        Args:
            rule: As in `find_peaks`.
            level: Level of the error that is controlled.
            control: "family" uses family_p_values, which also control the false discovery rate.
                "fdr" uses q_values.

        Raises:
            ValueError: If control is neither of these, or there are too few other answers for any
                p-value to reach the level (`decides` tells).
        """
        if control not in ("family", "fdr"):
            raise ValueError(f"control={control!r}: expected 'family' or 'fdr'")
        if not self.decides(level):
            raise ValueError(
                f"{self.others} other answers: no p-value is below {1 / (1 + self.others):.2g}, so "
                f"no peak can be significant at level {level:g}; it takes {others_needed(level)} "
                "other answers"
            )
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
    rule: PeakRule = PAPER_RULE,
) -> Calibration:
    """Compares the states' MI with the gold answer and with the answers of other problems.

    Args:
        states: States of a trace at a hook name.
        answer: The trace's gold answer state at the same hook name.
        others: Answer states of at least two other problems, computed in the same way.
        sigma: As in `hsic_mi`.
        eps: As in `hsic_mi`.
        rule: As in `find_peaks`, for the peaks that other answers have by chance.

    Raises:
        ValueError: If there are fewer than two other answers, no steps, or as in `hsic_mi`.
    """
    require_pair(states, answer)
    require_states(others, "others")
    n = len(others)
    if n < 2:
        raise ValueError(
            f"{n} other answers: a spread takes at least 2, and small p-values take many more "
            "(with 64 the smallest is 0.015)"
        )
    if not len(states) or others.shape[1:] != answer.shape:
        raise ValueError(
            f"{len(states)} steps, others of shape {tuple(others.shape)}: expected "
            f"some steps, and others with {len(answer)} coordinates"
        )
    mi = hsic_mi(states, torch.cat([answer[None], others]), sigma=sigma, eps=eps).cpu().numpy()
    specific = _each_against_the_others(mi)
    p_values = (1 + (mi[:, 1:] >= mi[:, :1]).sum(1)) / (1 + n)
    highest = specific[:, 1:].max(0)
    chance_peaks, chance_shared = _peaks_by_chance(mi[:, 1:], rule)
    return Calibration(
        others=n,
        raw=mi[:, 0],
        mean=mi[:, 1:].mean(1),
        std=mi[:, 1:].std(1, ddof=1),
        specific=specific[:, 0],
        p_values=p_values,
        q_values=false_discovery_control(p_values),
        family_p_values=(1 + (highest >= specific[:, :1]).sum(1)) / (1 + n),
        chance_peaks=chance_peaks,
        chance_shared=chance_shared,
    )


def _peaks_by_chance(
    mi: Float[np.ndarray, "step answer"], rule: PeakRule
) -> tuple[float | None, float | None]:
    """Mean number of significant peaks of each answer against the others, and of shared ones."""
    steps, n = mi.shape
    if n - 1 < others_needed() or steps < MINIMUM_STEPS:
        return None, None
    specific = _each_against_the_others(mi)
    highest = specific.max(0)
    counts = []
    for answer in range(n):
        peaks = find_peaks(specific[:, answer], rule)
        reached = np.delete(highest, answer)[:, None] >= specific[peaks, answer]
        found = peaks[(1 + reached.sum(0)) / n <= LEVEL]
        counts.append((len(found), len(np.intersect1d(found, find_peaks(mi[:, answer], rule)))))
    peaks_by_chance, shared = np.mean(counts, 0)
    return float(peaks_by_chance), float(shared)


def _each_against_the_others(
    mi: Float[np.ndarray, "step answer"],
) -> Float[np.ndarray, "step answer"]:
    """Every answer's value minus the mean of the other answers, over their standard deviation."""
    n = mi.shape[1] - 1
    centred = mi - mi.mean(1, keepdims=True)  # The sums below must not cancel.
    mean = -centred / n
    variance = ((centred**2).sum(1, keepdims=True) - centred**2 - n * mean**2) / (n - 1)
    # A spread below rounding errors counts as none. Then the specific part is 0.
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
    """MI of the states and the answer after the answer's coordinates are permuted.

    The MI that remains is the floor of the estimator: it ignores which coordinate has which value.
    """
    require_pair(states, answer)
    generator = torch.Generator().manual_seed(seed)
    d = answer.shape[-1]
    orders = torch.stack([torch.randperm(d, generator=generator) for _ in range(permutations)])
    shuffled = answer[orders.to(answer.device)]
    return hsic_mi(states, shuffled, sigma=sigma, eps=eps).T.cpu().numpy()


def massive_coordinates(
    states: Float[Tensor, "step d"], answer: Float[Tensor, " d"], ratio: float = 30.0
) -> Bool[Tensor, " d"]:
    """Which coordinates are massive activations.

    A coordinate is massive if its magnitude is more than `ratio` times the median magnitude of its
    vector, in the answer state or in at least half of the steps. If two vectors share a single
    massive coordinate and are independent otherwise, their MI is already 0.6 to 1.
    """
    require_pair(states, answer)

    def far(vectors: Tensor) -> Tensor:
        magnitude = in_float64(vectors).abs()
        if not magnitude.isfinite().all():
            raise ValueError("a vector holds NaN or infinity; leave it out")
        return magnitude > ratio * magnitude.median(-1, keepdim=True).values

    parts = states.split(rows_at_once(4 * states.shape[1], states.device))  # A float64 copy each.
    steps = torch.stack([far(part).sum(0) for part in parts]).sum(0)
    return (far(answer) | (2 * steps >= max(1, len(states)))).to(answer.device)


def without_massive(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    *,
    ratio: float = 30.0,
    sigma: float = 50.0,
    eps: float = 1e-5,
) -> Float[np.ndarray, " step"]:
    """The trajectory after massive coordinates are removed from the states and the answer."""
    kept = ~massive_coordinates(states, answer, ratio)
    return hsic_mi(states[:, kept], answer[kept], sigma=sigma, eps=eps).cpu().numpy()


def sigma_sweep(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    sigmas: Sequence[float],
    *,
    eps: float = 1e-5,
) -> Float[np.ndarray, "sigma step"]:
    """The trajectory for each kernel width."""
    require_pair(states, answer)
    return np.stack([hsic_mi(states, answer, sigma=s, eps=eps).cpu().numpy() for s in sigmas])


def scale_sweep(
    states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    scales: Sequence[float],
    *,
    sigma: float = 50.0,
    eps: float = 1e-5,
) -> Float[np.ndarray, "scale step"]:
    """The trajectory after all activations are multiplied by each factor c.

    The kernel depends only on coordinates over sigma, so this is the same as sigma / c.
    """
    return sigma_sweep(states, answer, [sigma / scale for scale in scales], eps=eps)
