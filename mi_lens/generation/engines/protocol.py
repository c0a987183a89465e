"""What runs a model while it writes.

A number from another engine is not a number from our own loop: kernels, padding and dtype differ,
and greedy decoding amplifies the difference. Traces of another engine therefore carry its name in
their condition and their id, and `comparison.compare` names the engine among the settings that
differ.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from mi_lens.generation.jobs import Job
from mi_lens.generation.request import Request
from mi_lens.models.model import Model


@runtime_checkable
class Engine(Protocol):
    """Runs requests that a `Plan` made ready.

    Attributes:
        name: What stands for the engine in settings and traces, with what may change a token: its
            version, dtype and options.
        own: Whether it is this package's loop, whose traces do not name their engine.
        model: What requests are made ready for: a HookedTransformer or TransformerBridge; for an
            engine that runs a checkpoint itself, its outline (`load_outline`).
        dtype: The dtype it computes in, such as "float32".
        device: The kind of device it computes on, such as "cuda".
    """

    name: str
    own: bool
    model: Model
    dtype: str
    device: str

    @property
    def fingerprint(self) -> str:
        """What the engine runs, named by its content (`mi_lens.models.fingerprint`)."""
        ...

    @staticmethod
    def refusal(request: Request) -> str | None:
        """What of a request engines of this class cannot do, to complete "asks for ..."; or None.

        It is asked of the class before a model is loaded, and again of every request of a plan.
        """
        ...

    def run(
        self, jobs: Sequence[Job], requests: Sequence[Request], batch_size: int
    ) -> Iterator[Job]:
        """Yields jobs as they finish, with tokens, events, seconds and the reason why they ended.

        Args:
            jobs: What to generate.
            requests: `requests[job.index]` is the request that a job was made of.
            batch_size: How many rows are decoded together at most.
        """
        ...

    def close(self) -> None:
        """Frees what the engine holds; nothing runs afterwards. A second close does nothing."""
        ...
