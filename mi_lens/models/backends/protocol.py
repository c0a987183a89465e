"""What a backend is: the functions that both of TransformerLens's model classes are driven by."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Backend(Protocol):
    """What the modules `hooked` and `bridge` both offer.

    Batches are left-padded: `attention_mask` is 0 on the padding at the left of a row and 1 from
    its first token on. Every position of every row is computed as if the row stood alone; what
    comes out at padding positions is finite and means nothing.

    A cache is the class's own. The functions that take one change it in place.
    """

    name: str

    def build(self, hf_model: Any, tokenizer: Any) -> Any:
        """The model, with unprocessed weights, from a loaded Hugging Face causal LM.

        The result owns the weights of `hf_model`, which is of no further use to the caller.
        """
        ...

    def hook_names(self, model: Any) -> list[str]:
        """The names of the hooks that fire with the model's present settings."""
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
            logits_to_keep: At how many last positions logits are computed: None for all, 0 for
                none (hooks still fire at every position). At a vocabulary of 150,000 the logits
                of a long batch are larger than the model.
        """
        ...

    def new_cache(self, model: Any, batch_size: int) -> Any:
        """An empty cache for `batch_size` rows."""
        ...

    def cache_length(self, cache: Any) -> int:
        """How many positions the cache holds, padding included."""
        ...

    def step(
        self,
        model: Any,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Int[Tensor, "batch total"],
        cache: Any,
        logits_to_keep: int | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Run new positions after those in the cache, which then holds them too.

        A prompt in one step followed by single tokens gives what `forward` gives on the whole;
        hooks see the new positions only.

        Args:
            model: The model.
            tokens: Token ids of the new positions.
            attention_mask: Over cached and new positions together.
            cache: From `new_cache`.
            logits_to_keep: As in `forward`.
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
        """Run one block once more, at the position its cache took up last.

        May be called after a step, and within one from a hook at `blocks.{layer}.hook_resid_post`:
        the caches of later layers are not looked at. No hook fires, and what other rows have in
        the cache stays as it is, bit for bit.

        Args:
            model: The model.
            layer: Which block.
            residual: The block's new input at that position.
            attention_mask: Of these rows, over the positions in the block's cache.
            cache: The cache of the step.
            rows: Different rows of the cache.
            keep_kv: Whether the position keeps its first keys and values in the cache, for later
                positions to read. Otherwise those of the new input replace them. The run itself
                reads its own in either case.

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
        """Run from one block to the end once more, at the last position in the cache.

        Hooks of these blocks, the last norm and the unembedding fire, on these rows only. The keys
        and values of the position in these blocks are replaced.

        Args:
            model: The model.
            layer: The first block to run; `n_layers` for the unembedding alone.
            residual: The new input of that block.
            attention_mask: Of these rows, over all positions in the cache.
            cache: The cache, after a step.
            rows: Different rows of the cache.
        """
        ...

    def keep_rows(self, cache: Any, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows of the cache, in this order. A row may be taken several times."""
        ...

    def join(self, cache: Any, other: Any) -> None:
        """Append the rows of another cache of the same model, which is of no further use.

        The shorter of the two is padded on the left, and the caller pads the masks alike. Both
        have been through a step.
        """
        ...

    def crop(self, cache: Any, length: int) -> None:
        """Keep the first `length` positions of the cache."""
        ...

    def trim(self, cache: Any, columns: int) -> None:
        """Drop the first `columns` positions of the cache, which are padding in every row."""
        ...

    def unembed(
        self, model: Any, residual: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of a residual-stream state: final norm, unembedding, softcap where there is one.

        The state is first brought to the model's dtype and device.
        """
        ...
