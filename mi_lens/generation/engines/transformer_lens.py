"""Our own loop, which runs a HookedTransformer or a TransformerBridge."""

from collections.abc import Iterator, Sequence
from typing import Any

from mi_lens.generation.jobs import Job
from mi_lens.generation.loop import Decoder
from mi_lens.generation.request import Request, end_of_text_ids
from mi_lens.models.attached_hooks import FwdHooks, UserHooks
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.model import Model
from mi_lens.models.self_check import require_able


class TransformerLensEngine:
    """An `Engine` that does all that can be asked for.

    Args:
        model: A HookedTransformer or TransformerBridge. Hooks on it fire.
        fwd_hooks: See `generate`.
        hooks_named: See `generate`.

    Attributes:
        hooks: The user's hooks.

    Raises:
        ValueError: If the model failed its check at generating when it was loaded, or the hooks do
            not fit; see `UserHooks`.
    """

    own = True

    def __init__(self, model: Model, fwd_hooks: FwdHooks = (), hooks_named: str = ""):
        require_able(model, "generate")
        self.model = model
        self.hooks = UserHooks(model, fwd_hooks, hooks_named)
        self.name = f"mi_lens, {type(model).__name__}"
        self.dtype = str(model.cfg.dtype).removeprefix("torch.")
        self.device = str(model.cfg.device).split(":", maxsplit=1)[0]

    @property
    def fingerprint(self) -> str:
        """The model's fingerprint, computed anew: its weights may have changed."""
        return model_fingerprint(self.model)

    @staticmethod
    def refusal(request: Request) -> str | None:
        """Nothing is refused."""
        return None

    def run(
        self, jobs: Sequence[Job], requests: Sequence[Request], batch_size: int
    ) -> Iterator[Job]:
        """See `Engine.run`."""
        ends = frozenset(end_of_text_ids(self.model))
        return Decoder(self.model, ends, batch_size, self.hooks.fwd_hooks).run(jobs)

    def close(self) -> None:
        """Does nothing: whoever has the model may go on with it."""


def load_transformer_lens(name: Any, **settings: Any) -> TransformerLensEngine:
    """The engine of a model that is loaded for it; arguments and errors as of `mi_lens.load`."""
    from mi_lens.models.loading import load

    return TransformerLensEngine(load(name, **settings))
