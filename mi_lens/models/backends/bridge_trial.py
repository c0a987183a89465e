"""Which shortcuts a bridge's components can take, tried on a few tokens when it is built."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from mi_lens.models.backends.bridge_passes import step
from mi_lens.models.backends.bridge_shortcuts import Shortcut, Shortcuts, candidates

LENGTH, PADDING = 6, 2  # Tokens of the two rows, and of the second one's padding.
PROMPT = 4  # Positions that are read in one step.

# For each module that was called, what came out each time: for hook points its shape and its norm.
Calls = dict[nn.Module, list[tuple[torch.Size, float] | None]]


def find_shortcuts(model: TransformerBridge) -> None:
    """Keep on the model the shortcuts with which its logits stay the same, up to rounding.

    Attention that Hugging Face computes otherwise than PyTorch's kernel does raises an error there,
    or gives other logits; then attention takes no shortcut.
    """
    model._shortcuts = Shortcuts()
    every = candidates(model)
    try:
        expected, calls = _tried(model, every)
    except Exception:  # Some models have no cache, or no values yet. `self_check` has the reason.
        return
    proven: dict[str, tuple[Shortcut, ...]] = {}
    for kind in ("attention", "others"):
        shortcuts = getattr(every, kind)
        model._shortcuts = replace(Shortcuts(configs=every.configs), **{kind: shortcuts})
        try:
            logits, calls_now = _tried(model, every)
        except Exception:  # Hugging Face and TransformerLens raise what they like.
            continue
        closeness = _closeness(model.cfg.dtype)
        error = (logits - expected).norm(dim=-1) / expected.norm(dim=-1)
        if error.median().item() <= closeness:  # Not all: rounding may choose another expert.
            proven[kind] = tuple(
                _with_skipped(shortcut, calls, calls_now, closeness) for shortcut in shortcuts
            )
    model._shortcuts = Shortcuts(**proven, configs=every.configs)


def _closeness(dtype: torch.dtype) -> float:
    """The relative error that counts as rounding."""
    return max(torch.finfo(kind).eps for kind in (dtype, torch.float32)) ** 0.5


@torch.no_grad()
def _tried(
    model: TransformerBridge, every: Shortcuts
) -> tuple[Float[Tensor, "pos d_vocab"], Calls]:
    """The logits of two rows read at once, and of the first one alone, in two steps each.

    Returns:
        The logits, and the calls of the modules in the components that may take shortcuts.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (2, LENGTH), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, :PADDING] = 0
    rows = []
    with _noting([*every.attention, *every.others]) as calls:
        for batch, end in ((2, LENGTH), (1, PROMPT + 1)):
            cache = DynamicCache()
            for start, stop in ((0, PROMPT), (PROMPT, end)):
                logits = step(model, tokens[:batch, start:stop], mask[:batch, :stop], cache)
                rows.append(logits[mask[:batch, start:stop].bool().to(logits.device)])
    return torch.cat(rows).float(), calls


@contextmanager
def _noting(shortcuts: list[Shortcut]) -> Iterator[Calls]:
    """Inside, the calls of the modules in these components are noted."""
    calls: Calls = {}

    def note(module: nn.Module, given: Any, output: Any) -> None:
        seen = isinstance(module, HookPoint) and isinstance(output, Tensor)
        found = (output.shape, output.float().norm().item()) if seen else None
        calls.setdefault(module, []).append(found)

    inside = {module for shortcut in shortcuts for module in shortcut.component.modules()}
    handles = [module.register_forward_hook(note) for module in inside]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _with_skipped(shortcut: Shortcut, before: Calls, now: Calls, closeness: float) -> Shortcut:
    """The shortcut, with the modules that are not called now or whose values are others now."""

    def is_alike(module: nn.Module) -> bool:
        pairs = zip(before.get(module, ()), now[module], strict=False)
        return all(
            was is None
            or found is None
            or (was[0] == found[0] and abs(was[1] - found[1]) <= closeness * was[1])
            for was, found in pairs
        )

    inside = shortcut.component.modules()
    skipped = tuple(module for module in inside if module not in now or not is_alike(module))
    own = frozenset(number for module in skipped for number in module._forward_hooks)
    return replace(shortcut, skipped=skipped, own_hooks=own)
