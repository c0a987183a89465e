"""The functions that every backend offers for its TransformerLens model class."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Backend(Protocol):
    """The functions of the modules `hooked` and `bridge`.

    Batches are left-padded: `attention_mask` is 0 on the padding at the left of a row and 1 from
    its first token on. It lies on the CPU, where a backend sees without waiting whether there is
    padding; for a mask on the model's device the host waits. Every position of a row is computed
    as if the row were alone in the batch. The outputs at padding positions are finite but
    meaningless.

    Each backend has its own class of caches. A function that takes a cache changes it in place.
    """

    name: str

    def build(self, hf_model: Any, tokenizer: Any) -> Any:
        """Build the model, with unprocessed weights, from a loaded Hugging Face causal LM.

        The model takes over the weights of `hf_model`, which the caller must not use any more.
        """
        ...

    def require_buildable(self, hf_config: Any) -> None:
        """Refuse a model that `build` would get wrong, before its weights are read.

        Args:
            hf_config: Hugging Face's config, of an architecture that the backend knows.

        Raises:
            ValueError: If the model needs something that the class cannot do.
        """
        ...

    def hook_names(self, model: Any) -> list[str]:
        """The names of the hooks that fire with the model's current settings."""
        ...

    def tokens_hook(self, model: Any) -> str | None:
        """The name of the hook that sees the token ids of each pass; None if there is none."""
        ...

    def is_own_hook(self, module: Any, function: Callable[..., Any]) -> bool:
        """Whether a forward hook's function is there by the class itself, or by `build`."""
        ...

    def forward(
        self,
        model: Any,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"],
        logits_to_keep: int | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Run whole sequences and return the logits at their last positions.

        Args:
            model: The model.
            tokens: Left-padded token ids.
            attention_mask: 0 on padding, 1 elsewhere.
            logits_to_keep: Number of last positions at which logits are computed; None for all.
                With 0 no logits are computed, but hooks still fire at every position. With a
                vocabulary of 150,000 the logits of a long batch are larger than the model.

        Raises:
            ValueError: If a row has more tokens than the model's context.
        """
        ...

    def new_cache(self, model: Any, batch_size: int) -> Any:
        """An empty cache for `batch_size` rows."""
        ...

    def cache_length(self, cache: Any) -> int:
        """The number of positions in the cache, including padding."""
        ...

    def step(
        self,
        model: Any,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Int[Tensor, "batch total"],
        cache: Any,
        logits_to_keep: int | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Run new positions after those in the cache, and add them to the cache.

        A prompt in one step, followed by single tokens, gives the same values as `forward` on the
        whole sequence. Hooks see only the new positions.

        Args:
            model: The model.
            tokens: Token ids of the new positions.
            attention_mask: The mask of cached and new positions together.
            cache: A cache from `new_cache`.
            logits_to_keep: As in `forward`.

        Raises:
            ValueError: If a row has more tokens than the model's context.
        """
        ...

    def some_blocks(
        self,
        model: Any,
        blocks: range,
        residual: Float[Tensor, "1 new d_model"],
        cache: Any,
    ) -> Float[Tensor, "1 new d_model"]:
        """Run some blocks alone on new positions of one row, and add them to their caches.

        No hook fires. The caches of the other blocks stay empty; `again` can be called with it.

        Args:
            model: The model.
            blocks: Consecutive blocks, at least one.
            residual: The input of the first.
            cache: A cache from `new_cache`, for one row and these blocks only.

        Returns:
            The output of the last, as at `hook_resid_post`.
        """
        ...

    def again(
        self,
        model: Any,
        layer: int,
        residual: Float[Tensor, "rows 1 d_model"],
        attention_mask: Int[Tensor, "rows total"],
        cache: Any,
        rows: Int[Tensor, " rows"],
        *,
        keep_kv: bool = False,
    ) -> Float[Tensor, "rows 1 d_model"]:
        """Run one block once more, at the last position in its cache.

        This can be called after a step. It can also be called during a step, from a hook at
        `blocks.{layer}.hook_resid_post`, because it does not read the caches of later layers. No
        hook fires, and the cached values of other rows stay the same, bit for bit.

        Args:
            model: The model.
            layer: Number of the block.
            residual: The block's new input at that position.
            attention_mask: The mask of these rows, over the positions in the block's cache.
            cache: The cache of the step.
            rows: Indices of the rows in the cache, each at most once.
            keep_kv: Whether the cache keeps the position's old keys and values, which later
                positions then read. Otherwise those of the new input replace them. This run
                itself reads those of the new input in either case.

        Returns:
            The block's output, as at `hook_resid_post`.
        """
        ...

    def onward(
        self,
        model: Any,
        layer: int,
        residual: Float[Tensor, "rows 1 d_model"],
        attention_mask: Int[Tensor, "rows total"],
        cache: Any,
        rows: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows d_vocab"]:
        """Run the model from one block to its end once more, at the last position in the cache.

        The hooks of these blocks, of the final norm and of the unembedding fire, with these rows
        only. The keys and values of the position in these blocks are replaced.

        Args:
            model: The model.
            layer: The first block to run; `n_layers` runs only the final norm and the unembedding.
            residual: The new input of that block.
            attention_mask: The mask of these rows, over all positions in the cache.
            cache: The cache, after a step.
            rows: Indices of the rows in the cache, each at most once.

        Returns:
            The logits at that position.
        """
        ...

    def keep_rows(self, cache: Any, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows of the cache, in this order. A row may occur several times."""
        ...

    def copy_rows(
        self, cache: Any, sources: Int[Tensor, " copies"], targets: Int[Tensor, " copies"]
    ) -> None:
        """Make some rows of the cache copies of others; no row is both."""
        ...

    def join(self, cache: Any, other: Any, rows: Int[Tensor, " rows"] | None = None) -> None:
        """Take over the rows of another cache of the same model, not to be used any more.

        The shorter rows are padded on the left, and the caller must pad the masks in the same way.
        Both caches must hold at least one step.

        Args:
            cache: The cache.
            other: The other cache.
            rows: The rows of the cache whose place the other's rows take, one for each; None
                appends them.
        """
        ...

    def crop(self, cache: Any, length: int) -> None:
        """Keep only the first `length` positions of the cache."""
        ...

    def trim(self, cache: Any, columns: int) -> None:
        """Drop the first `columns` positions of the cache, which must be padding in every row."""
        ...

    def take_back(self, cache: Any, taken: Mapping[int, int]) -> None:
        """Drop the last positions of some rows, which then move to the right.

        Where a row stood on the left is padding, and the caller must move its mask in the same way.

        Args:
            cache: The cache.
            taken: By row of the cache, how many of its last positions are dropped.
        """
        ...

    def unembed(
        self, model: Any, residual: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_vocab"]:
        """The logits of residual-stream states: final norm, unembedding, and softcap if any.

        The states are first converted to the model's dtype and device.
        """
        ...
