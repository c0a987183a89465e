"""Which shortcuts a bridge's components can take, tried on a few tokens when it is built."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from mi_lens.models.backends.bridge_passes import BridgeCache, step
from mi_lens.models.backends.bridge_shortcuts import Shortcut, Shortcuts, candidates

LENGTH, PADDING = 6, 2  # Tokens of the two rows, and of the second one's padding.
PROMPT = 4  # Positions that are read in one step.


def find_shortcuts(model: TransformerBridge) -> None:
    """Keep on the model the shortcuts with which its logits stay the same, up to rounding.

    Attention that Hugging Face computes otherwise than PyTorch's kernel does raises an error there,
    or gives other logits; then attention takes no shortcut.
    """
    model._shortcuts = Shortcuts()
    every = candidates(model)
    try:
        expected = _logits(model)
    except Exception:  # Some models have no cache, or no values yet. `self_check` has the reason.
        return
    for tried in (every, replace(every, attention=())):
        called: set[nn.Module] = set()
        components = {each.component for each in (*tried.attention, *tried.others)}
        model._shortcuts = tried
        try:
            with _noting(components, called):
                logits = _logits(model)
        except Exception:  # Hugging Face and TransformerLens raise what they like.
            continue
        if _is_close(logits, expected, model.cfg.dtype):
            model._shortcuts = replace(
                tried,
                attention=_with_skipped(tried.attention, components, called),
                others=_with_skipped(tried.others, components, called),
            )
            return
    model._shortcuts = Shortcuts()


@torch.no_grad()
def _logits(model: TransformerBridge) -> Float[Tensor, "pos d_vocab"]:
    """The logits of two rows read at once, and of the first one alone, in two steps each."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, (2, LENGTH), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, :PADDING] = 0
    rows = []
    for batch, end in ((2, LENGTH), (1, PROMPT + 1)):
        cache = BridgeCache()
        for start, stop in ((0, PROMPT), (PROMPT, end)):
            logits = step(model, tokens[:batch, start:stop], mask[:batch, :stop], cache)
            rows.append(logits[mask[:batch, start:stop].bool().to(logits.device)])
    return torch.cat(rows).float()


def _is_close(
    logits: Float[Tensor, "pos d_vocab"], expected: Float[Tensor, "pos d_vocab"], dtype: torch.dtype
) -> bool:
    """Whether logits are equal up to rounding at most positions; experts may change at one."""
    coarsest = max(torch.finfo(kind).eps for kind in (dtype, torch.float32))
    error = (logits - expected).norm(dim=-1) / expected.norm(dim=-1)
    return error.median().item() <= coarsest**0.5


@contextmanager
def _noting(components: Iterable[nn.Module], called: set[nn.Module]) -> Iterator[None]:
    """Inside, the modules in these components that are called are noted."""
    inside = {module for component in components for module in component.modules()}
    handles = [module.register_forward_hook(lambda at, *call: called.add(at)) for module in inside]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_skipped(
    shortcuts: tuple[Shortcut, ...], components: set[nn.Module], called: set[nn.Module]
) -> tuple[Shortcut, ...]:
    found = []
    for shortcut in shortcuts:
        skipped = tuple(_skipped(shortcut.component, components, called))
        own = frozenset(number for module in skipped for number in module._forward_hooks)
        found.append(replace(shortcut, skipped=skipped, own_hooks=own))
    return tuple(found)


def _skipped(
    module: nn.Module, components: set[nn.Module], called: set[nn.Module]
) -> Iterator[nn.Module]:
    """The modules in this one that were not called, without those in a shortcut of its own."""
    for child in module.children():
        if child not in called:
            yield child
        elif child in components:
            continue
        yield from _skipped(child, components, called)
