"""What one run of a program may use, and how it ended."""

from dataclasses import dataclass

from mi_lens.problems.grading.enclosures import Isolation


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: Processor time per process, in whole seconds.
        memory: Bytes of address space per process.
        file_size: Bytes per file, and bytes of printed output.
        processes: Processes and threads of the program. Three may be the sandbox's own. Before
            Linux 5.14, if the caller is not root, all other processes of the caller count too.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    file_size: int = 16 << 20
    processes: int = 64

    def __post_init__(self):
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value}: expected a positive limit")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        output: What the program printed, or the value that its function returned, as JSON.
        errors: The end of what the program printed to stderr.
        failure: Why the run failed; None if it succeeded.
        seconds: Wall-clock time.
        isolation: What the program ran inside of.
    """

    output: str
    errors: str
    failure: str | None
    seconds: float
    isolation: Isolation
