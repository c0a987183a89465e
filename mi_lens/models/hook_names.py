"""Hook names: the outputs of blocks, checks that hooks exist, and patterns for several hooks."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

from jaxtyping import Float
from torch import Tensor

from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model

HookNames = str | Sequence[str] | Callable[[str], bool]  # Names, patterns, or a filter.
BLOCK_OUTPUT = re.compile(r"blocks\.(\d+)\.hook_resid_post")
RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")  # Between blocks.
HEADS = re.compile(r"blocks\.\d+\.attn\.hook_z")  # What each head attends to, before W_O.


def block_output(layer: int) -> str:
    """The hook name of a block's output, which is the residual stream after the block.

    Args:
        layer: Number of the block, from 0. It is not checked whether a model has this block.
    """
    return f"blocks.{layer}.hook_resid_post"


def layer_of_output(hook_name: str) -> int | None:
    """The number of the block whose output this hook holds; None for any other hook."""
    match = BLOCK_OUTPUT.fullmatch(hook_name)
    return int(match[1]) if match else None


def head_of(name: str) -> tuple[str, int | None]:
    """A hook name and the number of the head that is meant there; None means the whole activation.

    A head's output is written "blocks.3.attn.hook_z[2]": head 2 of block 3, before W_O.

    Raises:
        ValueError: If a head of another hook is named.
    """
    match = re.fullmatch(r"(.+)\[(\d+)\]", name)
    if match is None:
        return name, None
    if not HEADS.fullmatch(match[1]):
        raise ValueError(
            f"hook name {name!r}: only an attention output has heads; expected a name such as "
            "'blocks.3.attn.hook_z[2]'"
        )
    return match[1], int(match[2])


def by_head(
    name: str, states: Float[Tensor, "step d"], n_heads: int
) -> dict[str, Float[Tensor, "step part"]]:
    """States by the names of their heads; states of a hook without heads keep their name.

    Args:
        name: The hook name.
        states: The states; those of heads lie side by side.
        n_heads: The model's number of heads.
    """
    if not HEADS.fullmatch(name):
        return {name: states}
    parts = states.chunk(n_heads, dim=1)
    return {f"{name}[{head}]": part for head, part in enumerate(parts)}


def last_block_output(model: Model) -> str:
    """The hook name of the last block's output, which the final norm and the unembedding read."""
    return block_output(model.cfg.n_layers - 1)


def resolve_hook_names(model: Model, names: str | Sequence[str]) -> list[str]:
    """Check that hooks of these names exist and fire.

    Args:
        model: The model.
        names: One hook name or several.

    Returns:
        The names as a list, in the given order.

    Raises:
        ValueError: If a name is given twice, or does not exist on this model; the message then
            gives the range of layers or similar names.
    """
    names = [names] if isinstance(names, str) else list(names)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"hooks {repeated} are given more than once; give each once")
    known = backend_of(model).hook_names(model)
    for name in names:
        if name not in known:
            raise ValueError(_unknown_hook(name, known, model.cfg.n_layers))
    return names


def match_hook_names(model: Model, patterns: HookNames) -> list[str]:
    """The names of the hooks that fire and match a pattern, such as "blocks.*.hook_resid_post".

    Args:
        model: The model.
        patterns: One pattern or several. In a pattern, * stands for any text. A hook name is a
            pattern that matches itself. Or a function that says of each name whether it is wanted,
            as TransformerLens's `names_filter`.

    Returns:
        Each matching name once, in the order of the patterns, and per pattern in the order of the
        blocks.

    Raises:
        ValueError: If no hook matches a pattern, with the message of `resolve_hook_names`; or if
            the function wants none.
    """
    known = backend_of(model).hook_names(model)
    names, unmatched = chosen_names(known, patterns)
    if unmatched:
        resolve_hook_names(model, unmatched[0])
    return names


def chosen_names(known: Sequence[str], patterns: HookNames) -> tuple[list[str], list[str]]:
    """The known names that patterns or a filter choose, and the patterns that choose none.

    Raises:
        ValueError: If a filter chooses none.
    """
    if callable(patterns):
        if not (wanted := [name for name in known if patterns(name)]):
            raise ValueError(
                f"the filter takes none of {len(known)} hooks, such as {', '.join(known[:3])}; "
                "expected at least one"
            )
        return wanted, []
    names: list[str] = []
    unmatched = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = fnmatch.filter(known, pattern)
        names += found
        if not found:
            unmatched.append(pattern)
    return list(dict.fromkeys(names)), unmatched


def _unknown_hook(name: str, known: list[str], n_layers: int) -> str:
    block = re.match(r"blocks\.(\d+)\.", name)
    if block and int(block.group(1)) >= n_layers:
        return f"hook {name!r}: the model has {n_layers} layers, blocks.0 to blocks.{n_layers - 1}"
    hint = near(name, known) or f"; for example {block_output(0)}"
    return f"hook {name!r} does not exist on this model, or is switched off in its config{hint}"


def near(name: str, known: Iterable[str]) -> str:
    """The known names that look like this one, as the end of a message; empty if none does."""
    alike = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; near: {', '.join(alike)}" if alike else ""
