"""A second engine that does all: our own loop under another name."""

from typing import Any

from mi_lens.generation.engines.transformer_lens import TransformerLensEngine


class RenamedEngine:
    """Runs a HookedTransformer or TransformerBridge; says that it is another engine.

    Attributes:
        closed: Whether it was closed.
    """

    own, name, fingerprint = False, "renamed 1.0", "fingerprint of a checkpoint"

    def __init__(self, model: Any):
        self.inner = TransformerLensEngine(model)
        self.model, self.dtype, self.device = model, self.inner.dtype, self.inner.device
        self.closed = False

    @staticmethod
    def refusal(request: Any) -> str | None:
        """Nothing but one stop text."""
        return "the stop text 'never'" if "never" in request.stop else None

    def run(self, jobs: Any, requests: Any, batch_size: int) -> Any:
        """Runs the jobs; each must be of the request that has its index."""
        assert not self.closed
        assert all(requests[job.index].seed == job.row.seed for job in jobs)
        return self.inner.run(jobs, requests, batch_size)

    def close(self) -> None:
        """Notes it."""
        self.closed = True
