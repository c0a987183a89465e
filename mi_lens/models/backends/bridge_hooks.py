"""The bridge's hooks: those that fire, those that are its own, and passes without the user's."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from mi_lens.models.backends.bridge_passes import forward
from mi_lens.models.backends.silence import silenced


def hook_every_block(model: TransformerBridge, place: str, function: Callable[..., Any]) -> None:
    """Attach a permanent hook in every block that has this place."""
    for layer in range(model.cfg.n_layers):
        if (name := f"blocks.{layer}.{place}") in model.hook_dict:
            model.add_hook(name, function, is_permanent=True)


def finite_scores(
    scores: Float[Tensor, "batch heads new total"], hook: Any
) -> Float[Tensor, "batch heads new total"]:
    """Raise masked scores to the lowest number of float32.

    A masked score is the lowest number of float64, which becomes -inf when the softmax converts it
    to float32. All scores of a padding position are masked, so that its pattern would be NaN; and
    because 0 * NaN is NaN, so would be every later position.
    """
    return scores.clamp(min=torch.finfo(torch.float32).min)


def in_dtype(dtype: torch.dtype, rotated: Tensor, hook: Any) -> Tensor:
    """Round to the model's dtype, as OLMo 2 and 3 do after the rotation; the bridge does not."""
    return rotated.to(dtype)


OWN_HOOKS = (finite_scores, in_dtype)


def silence(module: Any) -> AbstractContextManager[None]:
    """Inside, the user's hooks do not fire, and those that `build` attached do."""
    return silenced(module, lambda function: getattr(function, "func", function) in OWN_HOOKS)


def hook_names(model: TransformerBridge) -> list[str]:
    """See `Backend.hook_names`."""
    silent = probed(model).silent
    names = ((name, point.name or name) for name, point in model.hook_dict.items())
    return [name for name, own in names if not _is_off(model, own) and own not in silent]


def _is_off(model: TransformerBridge, name: str) -> bool:
    return model._gated_hook_reason(name) is not None


@dataclass(frozen=True)
class Probed:
    """What one short pass shows of a model's class.

    Attributes:
        silent: Hook points that no setting switches off and that no pass reaches, such as the
            angles of a block without positions, and parts that the bridge replaces.
        returns_tuples: Whether blocks return a tuple, as some architectures' do.
    """

    silent: frozenset[str] = frozenset()
    returns_tuples: bool = False


def probed(model: TransformerBridge) -> Probed:
    """What `build` found; found now for a bridge that TransformerLens built."""
    if not hasattr(model, "_probed"):
        with silence(model):
            probe(model)
    return model._probed


def probe(model: TransformerBridge) -> None:
    """One short pass, whose findings are kept on the model; the user's hooks should be off."""
    points = {point.name or name: point for name, point in model.hook_dict.items()}
    on = {name: point for name, point in points.items() if not _is_off(model, name)}
    reached: set[str] = set()
    outputs: list[Any] = []
    # Directly on the points: `model.hooks` looks every name up in a list that it makes anew. Some
    # points are reached only while TransformerLens knows of a hook on them.
    for name, point in on.items():
        point.add_hook(partial(_note, reached, name))
    handle = model.blocks[0].register_forward_hook(lambda *call: outputs.append(call[-1]))
    token = torch.zeros(1, 1, dtype=torch.long, device="cpu")  # An outline is built on no device.
    try:
        with torch.no_grad():
            forward(model, token, torch.ones_like(token))
        model._probed = Probed(frozenset(on.keys() - reached), isinstance(outputs[0], tuple))
    except Exception:
        if model.cfg.device != "meta":
            raise
        # Without values some models cannot run; the loaded model refuses what this one does not.
        model._probed = Probed()
    finally:
        handle.remove()
        for point in on.values():
            point.fwd_hooks.pop().hook.remove()


def _note(reached: set[str], name: str, tensor: Tensor, *, hook: HookPoint) -> None:
    reached.add(name)


def is_own_hook(module: Any, function: Callable[..., Any]) -> bool:
    """See `Backend.is_own_hook`. The bridge's and Hugging Face's are on Hugging Face's modules."""
    if isinstance(module, HookPoint):
        return function in OWN_HOOKS
    return getattr(function, "__module__", "").startswith(("transformer_lens.", "transformers."))
