"""The little that differs between TransformerLens's two model classes.

`HookedTransformer` exists up to TransformerLens 3 and reimplements each architecture;
`TransformerBridge` wraps the Hugging Face model and is the only one from TransformerLens 4 on.
Each has a module here with the same functions (the `Backend` protocol), and nothing outside this
folder needs to know which of the two it holds:

    backend = backend_of(model)
    cache = backend.new_cache(model, batch_size)
    logits = backend.step(model, tokens, attention_mask, cache)

Hooks are attached as everywhere in TransformerLens, with `model.hooks(fwd_hooks=...)` around the
call. A hook function that wants to know where it is must remember the name it was attached by: on a
bridge `hook.name` is another name of the same place.
`model.cfg.n_layers`, `.d_model`, `.d_vocab`, `.n_ctx`, `.dtype` and `.device` mean the same
on both classes.
"""

import difflib
import fnmatch
import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

NAMES = ("hooked", "bridge")


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


def available() -> tuple[str, ...]:
    """The backends that the installed TransformerLens has, the preferred one first."""
    has_hooked = importlib.util.find_spec("transformer_lens.HookedTransformer") is not None
    return NAMES if has_hooked else ("bridge",)


def get_backend(name: str) -> Backend:
    """A backend by name.

    Raises:
        ValueError: There is no such backend, or the installed TransformerLens does not have it.
    """
    if name not in NAMES:
        raise ValueError(f"backend {name!r} does not exist; choose 'auto' or one of {list(NAMES)}")
    if name not in available():
        version = importlib.metadata.version("transformer-lens")
        raise ValueError(
            f"backend {name!r} needs HookedTransformer, which TransformerLens {version} does not "
            "have; use backend='bridge', or install 'transformer-lens>=3.9,<4'"
        )
    if name == "hooked":
        from mi_lens.backends import hooked

        return hooked
    from mi_lens.backends import bridge

    return bridge


def backend_of(model: Any) -> Backend:
    """The backend of a model, by its class.

    Raises:
        TypeError: The model is neither a HookedTransformer nor a TransformerBridge.
    """
    classes = {base.__name__ for base in type(model).__mro__}
    if "HookedTransformer" in classes:
        return get_backend("hooked")
    if "TransformerBridge" in classes:
        return get_backend("bridge")
    raise TypeError(
        f"{type(model).__name__} is neither a HookedTransformer nor a TransformerBridge; "
        "mi_lens.load makes either from a checkpoint"
    )


def resolve_hook_names(model: Any, names: str | Sequence[str]) -> list[str]:
    """Check that hooks of these names exist and fire.

    Args:
        model: The model.
        names: One hook name or several.

    Returns:
        The names, as a list, in the order given.

    Raises:
        ValueError: A name is given twice, or does not exist on this model; the message tells the
            range of layers or the nearest names.
    """
    names = [names] if isinstance(names, str) else list(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"hooks {twice} are given more than once; give each once")
    known = backend_of(model).hook_names(model)
    for name in names:
        if name not in known:
            raise ValueError(_unknown_hook(name, known, model.cfg.n_layers))
    return names


def match_hook_names(model: Any, patterns: str | Sequence[str]) -> list[str]:
    """The names of hooks that fire and fit a pattern, as "blocks.*.hook_resid_post".

    Args:
        model: The model.
        patterns: One or several, in which * stands for anything; a name is its own pattern.

    Returns:
        The names, each once, in the order of the patterns and, in a pattern, of the blocks.

    Raises:
        ValueError: Nothing fits a pattern; the message is that of `resolve_hook_names`.
    """
    known = backend_of(model).hook_names(model)
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found += fnmatch.filter(known, pattern) or resolve_hook_names(model, pattern)
    return list(dict.fromkeys(found))


def _unknown_hook(name: str, known: list[str], n_layers: int) -> str:
    block = re.match(r"blocks\.(\d+)\.", name)
    if block and int(block.group(1)) >= n_layers:
        return f"hook {name!r}: the model has {n_layers} layers, blocks.0 to blocks.{n_layers - 1}"
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; near: {', '.join(near)}" if near else "; for example blocks.0.hook_resid_post"
    return f"hook {name!r} does not exist on this model, or is switched off in its config{hint}"
