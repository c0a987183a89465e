"""Rules that say which steps of a trajectory are peaks. The paper's rule is the default.

To add a rule, write a frozen dataclass with `label`, `description` and `threshold` here, and add it
to `RULES`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mi_lens.common.calls import from_call

# For a normal variable, the standard deviation is this factor times the median absolute deviation.
MADS_PER_STANDARD_DEVIATION = 1.4826


class PeakRule(ABC):
    """Picks the peaks of a trajectory of finite values."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The threshold in words, for a legend."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The definition of a peak, such as "a step more than ..."."""

    @abstractmethod
    def threshold(self, values: Float[np.ndarray, " step"]) -> float:
        """The value that every peak exceeds. With `TopK`, a peak may also equal it."""

    def steps(self, values: Float[np.ndarray, " step"]) -> Int[np.ndarray, " peak"]:
        """The peaks in order: all steps above the threshold. A constant trajectory has no peaks."""
        return np.flatnonzero(values > self.threshold(values))


@dataclass(frozen=True)
class IQR(PeakRule):
    """Steps with m_t > Q3 + tau * IQR (the text of paper 1). Quartiles are interpolated linearly.

    Attributes:
        tau: Number of interquartile ranges above the third quartile, at least 0.
    """

    tau: int | float = 1.5

    def __post_init__(self):
        if not self.tau >= 0:
            raise ValueError(
                f"tau={self.tau}: expected a number of interquartile ranges, at least 0"
            )
        object.__setattr__(self, "tau", float(self.tau))  # 2 and 2.0 must be written the same.

    @property
    def label(self) -> str:
        """See `PeakRule.label`."""
        return "Q3 + τ·IQR"

    @property
    def description(self) -> str:
        """See `PeakRule.description`."""
        return (
            f"a step more than {self.tau:g} interquartile ranges above the third quartile of its "
            "trace"
        )

    def threshold(self, values: Float[np.ndarray, " step"]) -> float:
        """See `PeakRule.threshold`."""
        q1, q3 = np.quantile(values, [0.25, 0.75])
        return float(q3 + self.tau * (q3 - q1))


@dataclass(frozen=True)
class MAD(PeakRule):
    """Steps with m_t > median + k * s, where s is the median absolute deviation times 1.4826.

    For normal values, s is the standard deviation. A few high values change s less than they change
    the interquartile range. If more than half of the values are equal, s is 0.

    Attributes:
        k: Number of deviations s above the median, at least 0.
    """

    k: int | float = 3.0

    def __post_init__(self):
        if not self.k >= 0:
            raise ValueError(f"k={self.k}: expected a number of deviations, at least 0")
        object.__setattr__(self, "k", float(self.k))

    @property
    def label(self) -> str:
        """See `PeakRule.label`."""
        return f"median + {self.k:g} MAD"

    @property
    def description(self) -> str:
        """See `PeakRule.description`."""
        return (
            f"a step more than {self.k:g} deviations above the median of its trace (1.4826 times "
            "the median absolute deviation)"
        )

    def threshold(self, values: Float[np.ndarray, " step"]) -> float:
        """See `PeakRule.threshold`."""
        median = float(np.median(values))
        deviation = float(np.median(np.abs(values - median)))
        return median + self.k * MADS_PER_STANDARD_DEVIATION * deviation


@dataclass(frozen=True)
class TopK(PeakRule):
    """The k steps of highest value (the notebook of paper 1).

    If a trajectory has fewer than k steps, all steps are peaks. Of equal values, the earlier step
    comes first.

    Attributes:
        k: Number of peaks, at least 1.
    """

    k: int = 20

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"k={self.k}: expected at least 1 peak")

    @property
    def label(self) -> str:
        """See `PeakRule.label`."""
        return f"the {self.k} highest"

    @property
    def description(self) -> str:
        """See `PeakRule.description`."""
        return f"one of the {self.k} highest steps of its trace"

    def threshold(self, values: Float[np.ndarray, " step"]) -> float:
        """See `PeakRule.threshold`."""
        return float(values[self.steps(values)].min())

    def steps(self, values: Float[np.ndarray, " step"]) -> Int[np.ndarray, " peak"]:
        """See `PeakRule.steps`."""
        return np.sort(np.argsort(-values, kind="stable")[: self.k])


RULES = {rule.__name__: rule for rule in (IQR, MAD, TopK)}
PAPER_RULE = IQR()


def parse_peak_rule(text: str) -> PeakRule:
    """The rule that a text such as "IQR()", "TopK(20)" or "MAD(k=3)" describes.

    Raises:
        ValueError: If the text describes no rule. The message says why.
    """
    return from_call(text, _rule_of, what="peak rule", example=repr(PAPER_RULE))


def _rule_of(name: str) -> type[PeakRule]:
    if name not in RULES:
        raise ValueError(f"peak rule {name!r}: expected one of {sorted(RULES)}")
    return RULES[name]
