"""What was counted on a pretend device, and the line of mi_lens from which it came."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import mi_lens

PACKAGE = f"{Path(mi_lens.__file__).parent}/"


@dataclass
class Counts:
    """How often something happened, by operation and line of mi_lens.

    Attributes:
        launches: Kernels started.
        uploads: Copies from the host to a device.
        downloads: Copies from a device to the host.
        waits: Points where the host waits for a device: most copies, and operations whose result
            has a size or an error that the host must know.
        attention: Calls of the attention kernels, by the kernel's name and what it was given.
        plans: Shapes and strides that each attention kernel was given; cuDNN plans for each anew.
        float64: Kernels with a result in float64.
    """

    launches: Counter[tuple[str, str]] = field(default_factory=Counter)
    uploads: Counter[tuple[str, str]] = field(default_factory=Counter)
    downloads: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    attention: Counter[tuple[str, str]] = field(default_factory=Counter)
    plans: dict[str, set[tuple[object, ...]]] = field(default_factory=dict)
    float64: Counter[tuple[str, str]] = field(default_factory=Counter)

    def totals(self) -> dict[str, int]:
        """The number of launches, uploads, downloads and waits."""
        kinds = "launches", "uploads", "downloads", "waits"
        return {kind: getattr(self, kind).total() for kind in kinds}

    def __str__(self) -> str:
        lines = [", ".join(f"{count} {kind}" for kind, count in self.totals().items())]
        for (operation, line), count in self.waits.most_common():
            lines.append(f"{count:6d} waits in {operation:32s} {line}")
        return "\n".join(lines)


def line_of_package() -> str:
    """The innermost line of mi_lens that is being run, as "states/capture.py:12"."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{file.removeprefix(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside of mi_lens"
