"""What this package asks of a model: both of TransformerLens's classes have it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """A HookedTransformer or a TransformerBridge, with its tokenizer.

    Attributes:
        cfg: Has `n_layers`, `n_heads`, `d_model`, `d_vocab`, `n_ctx`, `dtype` and `device`.
        tokenizer: A Hugging Face tokenizer; None where the checkpoint has none.
    """

    cfg: Any
    tokenizer: Any

    def hooks(self, fwd_hooks: Any = ...) -> AbstractContextManager[Any]:
        """Inside, hook functions are attached: pairs of a hook name and a function."""
        ...

    def state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Tensor]:
        """Every parameter and buffer by its name."""
        ...
