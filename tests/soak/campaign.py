"""A campaign of abuse: attempts in an order that a seed decides, counted by kind of fault."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.soak.bench import Attempt, AttemptError, Bench
from tests.soak.faults import KINDS

COLUMNS = ("clear error", "carried through", "traceback", "silent difference", "unclear error")
FAILURES = COLUMNS[2:]
# The kinds of ten attempts in a row; attempt n is of kind n modulo ten.
ORDER = (
    *("kill", "bad value", "damaged file", "replaced input", "bad value"),
    *("kill", "two at once", "damaged file", "full disk", "bad value"),
)


@dataclass
class Campaign:
    """The counts of a campaign.

    Attributes:
        counts: (kind, how it went) to the number of attempts.
        failures: Each attempt that failed: its number, its commands and what happened.
        kills: How many commands a signal cut short.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    kills: int = 0

    def attempts(self, kind: str) -> int:
        """How many attempts of a kind there were."""
        return sum(self.counts[kind, column] for column in COLUMNS)

    def __str__(self) -> str:
        names = ["attempts", *(f"{column}s" for column in COLUMNS)]
        names[2] = "carried through"
        lines = [f"{'':15}" + "".join(f"{name:>20}" for name in names)]
        for kind in KINDS:
            row = [self.attempts(kind), *(self.counts[kind, column] for column in COLUMNS)]
            lines.append(f"{kind:15}" + "".join(f"{number:>20,}" for number in row))
        return "\n".join([*lines, f"commands cut short by a signal: {self.kills:,}"])


def run_campaign(
    folder: Path,
    seed: int,
    numbers: Iterable[int] | None = None,
    *,
    minutes: float | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Campaign:
    """Makes attempts and counts how they went.

    Args:
        folder: An empty folder; an attempt that fails leaves its folder there.
        seed: Decides every attempt, together with the attempt's number.
        numbers: The attempts to make; None makes one after the other until the time is over.
        minutes: When to begin no further attempt.
        tell: Called with a line about each failure.
    """
    began = time.monotonic()
    bench = Bench(folder / "bench")
    campaign = Campaign()
    for number in count() if numbers is None else numbers:
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            break
        kind = ORDER[number % len(ORDER)]
        attempt = Attempt(bench, folder / f"attempt-{number}", random.Random(f"{seed}/{number}"))
        try:
            went: str = KINDS[kind](attempt)
            shutil.rmtree(attempt.folder)
        except AttemptError as failure:
            went = failure.fault
            history = "\n  ".join(attempt.history)
            text = (
                f"attempt {number} of seed {seed} ({kind}): {went}\n  {history}\n{failure}\n"
                f"  alone: python -m tests.soak --seed {seed} --only {number}\n"
            )
            campaign.failures.append(text)
            tell(text)
        campaign.kills += attempt.kills
        campaign.counts[kind, went] += 1
    return campaign
