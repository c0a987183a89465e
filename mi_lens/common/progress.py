"""Progress of long work on stderr: a bar on a terminal, now and then a line elsewhere."""

import sys
from collections.abc import Collection, Iterator
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

INTERVAL = 30.0  # seconds between two lines
SHORT = 5.0  # work that ends within this many seconds writes no line, so that notebooks stay clean

Item = TypeVar("Item")


class Progress:
    """Counts what is done. Lines tell the share done, the rate and the time left.

    On a terminal this is a bar. Elsewhere, as in a batch job's log, a line is written at most every
    30 s, and one at the end.

    Args:
        total: How many there are to do, those of `initial` included.
        doing: What is done, such as "generate".
        unit: The name of one, such as "trace".
        shown: Whether to write anything.
        initial: How many were done before; they do not count for the rate.
    """

    def __init__(self, total: int, doing: str, unit: str, shown: bool = True, initial: int = 0):
        self.total, self.doing, self.unit = total, doing, unit
        self.done = self.initial = initial
        self._shown = shown
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        """Starts the clock."""
        self._began = self._last_line = monotonic()
        if self._shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total, initial=self.initial, desc=self.doing, unit=self.unit
            )
        return self

    def update(self, newly: int = 1) -> None:
        """Adds what was done since the last call."""
        self.done += newly
        if self._bar is not None:
            self._bar.update(newly)
        elif self._shown and self.done < self.total and monotonic() - self._last_line >= INTERVAL:
            self._write_line()

    def __exit__(self, *_: object) -> None:
        """Closes the bar, or writes the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self._shown and self.total and monotonic() - self._began >= SHORT:
            self._write_line()

    def _write_line(self) -> None:
        self._last_line = monotonic()
        seconds = self._last_line - self._began
        print(self.line(seconds), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What is done after some seconds, as text."""
        share = f"{100 * self.done / self.total:.0f} %"
        parts = [f"{self.doing}: {self.done:,} of {self.total:,} {self.unit}s ({share})"]
        newly = self.done - self.initial
        if newly:
            parts.append(_rate(newly / seconds, self.unit))
        if self.done >= self.total:
            parts.append(f"took {duration(seconds)}")
        elif newly:
            parts.append(f"{duration((self.total - self.done) * seconds / newly)} left")
        return ", ".join(parts)


def tracked(items: Collection[Item], doing: str, unit: str, shown: bool = True) -> Iterator[Item]:
    """The items, each counted as done when the next one is asked for; see `Progress`."""
    with Progress(len(items), doing, unit, shown) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """A time in the unit that suits it: "45 s", "3.5 min", "2.0 h", "4.2 days"."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _rate(per_second: float, unit: str) -> str:
    """The rate per second, minute or hour: the first of these in which it is at least 1."""
    if per_second >= 1:
        return f"{per_second:,.1f} {unit}s/s"
    if 60 * per_second >= 1:
        return f"{60 * per_second:.1f} {unit}s/min"
    return f"{3600 * per_second:.1f} {unit}s/h"
