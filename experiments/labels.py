"""What a study may say of a claim: one rule computes every label from premises and tests.

A claim is labelled as tested only where this model could have decided it either way. First come the
premises: what must hold for the claim to be put to the test at all. If all hold, the tests decide:

- with: every effect lies above zero (zero is what the claim denies; effects point as claimed);
- against: some effect lies below its margin, the smallest effect that would matter;
- open: neither, or both, which is an effect that is there and too small to matter.

So no claim is contradicted by a mere lack of significance: an interval must exclude every effect
that would matter. Records hold the premises and the tests, and `label_of_record` computes the label
from them again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.summaries import affine
from mi_lens.common.statistics import Estimate

Label = Literal[
    "with", "against", "open", "premise not met", "by construction", "not a reasoner", "not asked"
]
LABELS: dict[Label, tuple[str, str]] = {
    "with": (
        "Premise met and tested: with the claim",
        "Every tested effect is as claimed, its whole interval above zero.",
    ),
    "against": (
        "Premise met and tested: against the claim",
        "Of some tested effect the interval excludes every size that would matter (the margin).",
    ),
    "open": (
        "Open",
        "Tested, and the intervals hold both, or an effect is there and smaller than the margin; "
        "or whether the premise is met is not certain.",
    ),
    "premise not met": (
        "Premise not met by this model",
        "What the claim presupposes is absent here, so the numbers say nothing on the claim.",
    ),
    "by construction": (
        "By construction of this model",
        "The study could not have come out otherwise on this model: it shows that the method "
        "runs, and nothing on the claim.",
    ),
    "not a reasoner": (
        "An instruct model, not a reasoner",
        "The claim is about reasoning models and this model is none, so the numbers say what it "
        "does, and nothing on the claim.",
    ),
    "not asked": ("Not asked by the papers", "A measurement beside the papers' claims."),
}


TESTED: tuple[Label, ...] = ("with", "against", "open")


@dataclass(frozen=True)
class Premise:
    """Something that must hold before a claim can be tested.

    Attributes:
        text: A sentence: what is presupposed and what the study finds of it, with its number.
        otherwise: The label of a claim whose premise fails.
        value: The quantity that tells whether it holds. None if it is known to fail from how the
            model or the measure was made; such a premise is named only where it fails.
        least: The smallest value at which it holds.
    """

    text: str
    otherwise: Literal["premise not met", "by construction", "not a reasoner"]
    value: Estimate | None = None
    least: float = 0.0

    @property
    def holds(self) -> bool | None:
        """Whether it holds; None where the interval does not tell."""
        if self.value is None or (self.value.high is not None and self.value.high < self.least):
            return False
        return True if self.value.low is not None and self.value.low >= self.least else None


@dataclass(frozen=True)
class ClaimTest:
    """One effect that a claim asserts.

    An interval without width, as of units that are all alike, decides nothing: it is a bootstrap's,
    and no certainty.

    Attributes:
        name: What the effect is, in a few words.
        effect: The effect in its unit. It is positive where the claim is right.
        margin: The smallest effect that would matter, zero or more, in the same unit.
        unit: The unit, such as "points".
    """

    name: str
    effect: Estimate
    margin: float
    unit: str

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ValueError(
                f"margin={self.margin} of {self.name!r}: expected 0 or more, as a claim is not "
                "contradicted by an effect in its direction; shift the effect instead"
            )

    @property
    def shown(self) -> bool:
        """Whether the effect is above zero beyond chance."""
        low, high = self.effect.low, self.effect.high
        return low is not None and low > 0 and low != high

    @property
    def small(self) -> bool:
        """Whether every effect that would matter is excluded."""
        low, high = self.effect.low, self.effect.high
        return high is not None and high < self.margin and low != high


def half_shared(shares: Mapping[str, Estimate]) -> tuple[ClaimTest, ...]:
    """Tests, by name, that more than half of the peaks are shared, in points above one half."""
    return tuple(
        ClaimTest(name, affine(share, 100, -50), 0.0, "points") for name, share in shares.items()
    )


@dataclass(frozen=True)
class Finding:
    """What a study found, on the model and problems of its configuration.

    Attributes:
        about: The figure, table or criticism that the study answers, as "paper 1, table 2".
        claim: The claim made there, in a few words.
        text: Two sentences made from the numbers: what the study found, and how sure that is.
        premises: What must hold for the claim to be tested, in order; the first that fails gives
            the label.
        tests: The effects that the claim asserts; none if `asked` is false.
        asked: Whether the papers make the claim.
    """

    about: str
    claim: str
    text: str
    premises: tuple[Premise, ...] = ()
    tests: tuple[ClaimTest, ...] = ()
    asked: bool = True

    @property
    def label(self) -> Label:
        """The label, by the rule of this module."""
        return label(self.premises, self.tests, self.asked)


def label(premises: Sequence[Premise], tests: Sequence[ClaimTest], asked: bool = True) -> Label:
    """The label of a claim.

    Raises:
        ValueError: If the claim is asked and there are no tests of it.
    """
    if not asked:
        return "not asked"
    failing = [premise for premise in premises if premise.holds is False]
    if failing:
        return failing[0].otherwise
    if not tests:
        raise ValueError("no test of a claim whose premises do not fail; expected one or more")
    if any(premise.holds is None for premise in premises):
        return "open"
    shown, small = all(test.shown for test in tests), any(test.small for test in tests)
    if shown == small:
        return "open"
    return "with" if shown else "against"


def label_of_record(record: Mapping[str, Any]) -> Label:
    """The label of a saved record, computed again from its premises and tests.

    Args:
        record: What `experiments.study.save` wrote, read as JSON.
    """
    premises = list(map(premise_of, record["premises"]))
    return label(premises, list(map(tested_by, record["tests"])), record["asked"])


def premise_of(record: Mapping[str, Any]) -> Premise:
    """A premise as JSON holds it."""
    value = record["value"]
    return Premise(**{**record, "value": None if value is None else Estimate(**value)})


def tested_by(record: Mapping[str, Any]) -> ClaimTest:
    """A test as JSON holds it."""
    return ClaimTest(**{**record, "effect": Estimate(**record["effect"])})


def exactly(value: float) -> Estimate:
    """A value that is known without uncertainty, such as a length that was counted."""
    return Estimate(float(value), float(value), float(value), 1)
