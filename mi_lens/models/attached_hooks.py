"""The hooks that a model's user attached: they are part of what produces its traces and states.

Hooks that a class puts on its own modules do not count. What this does not see: hooks of torch that
are on every module of the process, and a method that was replaced.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.model import Model

UNNAMED = "unnamed: "

# Pairs as TransformerLens takes them: a hook name, or a function that picks names; and a hook.
FwdHooks = Sequence[tuple[str | Callable[[str], bool], Callable[..., Any]]]


@dataclass(frozen=True)
class AttachedHook:
    """A forward hook, or a forward pre-hook, on a module of the model.

    Attributes:
        at: The hook name; for a module that is no hook point, its path in the model.
        function: Name of the hook's function.
        number: torch's number of the hook, which no other hook of the process has.
    """

    at: str
    function: str
    number: int


def attached_hooks(model: Any) -> list[AttachedHook]:
    """The forward hooks that the user has on the model now, by module, in the order they fire."""
    is_own = backend_of(model).is_own_hook
    hook_names = {id(point): name for name, point in model.hook_dict.items()}
    attached = []
    for path, module in model.named_modules():
        # TransformerLens wraps the hooks of its hook points.
        wrapped = {handle.hook.id: handle.user_hook for handle in getattr(module, "fwd_hooks", ())}
        for number, called in [*module._forward_pre_hooks.items(), *module._forward_hooks.items()]:
            function = _unwrapped(wrapped.get(number) or called)
            if not is_own(module, function):
                name = getattr(function, "__name__", type(function).__name__)
                attached.append(AttachedHook(hook_names.get(id(module), path), name, number))
    return attached


def _unwrapped(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


class UserHooks:
    """The user's hooks that act while a model generates, and the name they go by.

    Args:
        model: A HookedTransformer or TransformerBridge. The hooks on it count.
        fwd_hooks: Further hooks, to be on the model while it generates.
        named: What the user calls all of these hooks.

    Attributes:
        record: What stands for the hooks in records and ids: their name; or, where the user gave
            none, "unnamed: " and the hooks; empty if there are no hooks.

    Raises:
        ValueError: If a hook name does not exist, or a function picks none; if there is a name and
            nothing to be named; or if the name begins with "unnamed: ".
    """

    def __init__(self, model: Model, fwd_hooks: FwdHooks = (), named: str = ""):
        self.model, self.fwd_hooks = model, list(fwd_hooks)
        self._on_the_model = attached_hooks(model)
        _require_hooks_exist(model, self.fwd_hooks)
        with model.hooks(fwd_hooks=self.fwd_hooks) if self.fwd_hooks else nullcontext():
            acting = attached_hooks(model)
        if named and not acting:
            raise ValueError(
                f"hooks_named={named!r}, but there are no hooks to be named so; give fwd_hooks, or "
                "attach hooks to the model before"
            )
        if named.startswith(UNNAMED):
            raise ValueError(f"hooks_named={named!r}: this is how hooks without a name are called")
        self.record = named or unnamed(acting)

    def check(self, folder: Path | None = None) -> None:
        """Checks the hooks before they act.

        Args:
            folder: Where the model's traces will be kept, if they are.

        Raises:
            ValueError: If the hooks on the model are not those of before, or there is a folder and
                hooks without a name.
        """
        if attached_hooks(self.model) != self._on_the_model:
            raise ValueError(
                "the hooks on the model are not those that it had when the Plan was made; make the "
                "Plan once they are attached, such as inside of `with model.hooks(...)`"
            )
        if folder is not None and self.record.startswith(UNNAMED):
            raise ValueError(
                f"hooks of yours are on the model: {self.record.removeprefix(UNNAMED)}. In a "
                "folder, what they produce would be taken for what the model alone produces, or "
                "other hooks. Name them, with a version: hooks_named='zero head 0, v1'; or remove "
                "them; or give no folder"
            )


def require_hooks_of_traces(model: Model, records: Iterable[str]) -> None:
    """Refuse to keep states in a folder that were read under other hooks than their trace.

    Args:
        model: A HookedTransformer or TransformerBridge.
        records: For each trace, `UserHooks.record` when it was generated.

    Raises:
        ValueError: If hooks are on the model and a trace was generated without hooks or under hooks
            without a name, or the other way about.
    """
    on_the_model = unnamed(attached_hooks(model)).removeprefix(UNNAMED)
    records = set(records)
    for record in records:
        if on_the_model and (not record or record.startswith(UNNAMED)):
            raise ValueError(
                f"hooks of yours are on the model: {on_the_model}. The folder would take the "
                "states under them for those of traces without hooks, or under other hooks. "
                "Remove the hooks; or generate the traces with hooks_named=...; or keep the states "
                "in memory, with capture"
            )
        if record and not on_the_model:
            raise ValueError(
                f"traces were generated under hooks, {record!r}, that are not on the model now; "
                "attach these with model.hooks"
            )


def require_hooks_still_on(model: Model, records: Iterable[str]) -> None:
    """Refuse to read traces that were generated under named hooks while the model has none.

    Hooks without a name are mostly those that watch.

    Args:
        model: A HookedTransformer or TransformerBridge.
        records: For each trace, `UserHooks.record` when it was generated.

    Raises:
        ValueError: If a trace was generated under named hooks and none are on the model.
    """
    if attached_hooks(model):
        return
    for record in records:
        if record and not record.startswith(UNNAMED):
            raise ValueError(
                f"a trace was generated under hooks, {record!r}, that are not on the model now, so "
                "its states would be others than those that wrote it; attach the hooks with "
                "model.hooks, or read the trace with capture(..., condition=None)"
            )


def unnamed(hooks: Sequence[AttachedHook]) -> str:
    """What stands for hooks without a name; empty if there are no hooks."""
    listed = ", ".join(f"{hook.function} at {hook.at}" for hook in hooks)
    return UNNAMED + listed if listed else ""


def _require_hooks_exist(model: Model, fwd_hooks: FwdHooks) -> None:
    """TransformerBridge would pass an unknown name over, and both classes a function of no name."""
    known = backend_of(model).hook_names(model)
    for name, _ in fwd_hooks:
        if isinstance(name, str):
            resolve_hook_names(model, name)
        elif not any(map(name, known)):
            raise ValueError(
                "a function in fwd_hooks picks none of the model's hook names; for example "
                f"{known[0]}"
            )
