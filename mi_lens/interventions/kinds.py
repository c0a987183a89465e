"""The classes of interventions by name, this package's and users'; interventions from JSON."""

import importlib
import os
import sys
from dataclasses import fields
from typing import Any, TypeVar

from mi_lens.common.calls import CALL, build
from mi_lens.interventions.protocol import Intervention

KINDS = {
    "Continue": "mi_lens.interventions.extend",
    "EarlyExit": "mi_lens.interventions.early_exit",
    "ForbidAt": "mi_lens.interventions.forbid",
    "Gate": "mi_lens.interventions.gate",
    "LogitPenalty": "mi_lens.interventions.suppress",
    "ProbeExit": "mi_lens.interventions.probe_exit",
    "RaiseTemperature": "mi_lens.interventions.temperature",
    "Recycle": "mi_lens.interventions.recycle",
    "Schedule": "mi_lens.interventions.schedule",
    "Steer": "mi_lens.interventions.steer",
    "Suppress": "mi_lens.interventions.suppress",
}
_of_users: dict[str, type[Intervention]] = {}  # By the name of the class.
Kind = TypeVar("Kind", bound=type)


def register_intervention(kind: Kind) -> Kind:
    """Makes a class of interventions known by its name, like those of this package; a decorator.

    Conditions on the command line, in YAML and in JSON may then name it without its module.

    Args:
        kind: A frozen dataclass that subclasses `Intervention`.

    Raises:
        ValueError: If it is no such class, or if another class has its name.
    """
    settings: Any = getattr(kind, "__dataclass_params__", None)
    if settings is None or not settings.frozen or Intervention not in kind.__mro__:
        raise ValueError(f"{kind!r}: expected a frozen dataclass that subclasses Intervention")
    name = kind.__name__
    if KINDS.get(name) == kind.__module__:
        return kind
    held = _of_users.get(name)
    if name in KINDS or (held is not None and _place(held) != _place(kind)):
        where = KINDS[name] if name in KINDS else _place(held)
        raise ValueError(
            f"{_place(kind)}: {where} has an intervention {name!r} already, and traces tell them "
            "apart by this name; give the class another"
        )
    _of_users[name] = kind
    return kind


def is_known(name: str) -> bool:
    """Whether a class of interventions has this name."""
    return name in KINDS or name in _of_users


def kind_of(name: Any, import_modules: bool = False) -> Any:
    """The class of a name, or of "module:Class"; the latter is known by its name from then on."""
    if name in KINDS:
        return getattr(importlib.import_module(KINDS[name]), name)
    if name in _of_users:
        return _of_users[name]
    if not isinstance(name, str) or ":" not in name:
        raise ValueError(
            f"intervention {name!r}: expected one of {sorted([*KINDS, *_of_users])}, or a class of "
            "your own as 'module:Class'"
        )
    module_name, _, class_name = name.partition(":")
    kind = getattr(_module(module_name, import_modules), class_name, None)
    if kind is None:
        raise ValueError(f"intervention {name!r}: module {module_name} has no {class_name}")
    return register_intervention(kind)


def from_json(value: dict[str, Any], import_modules: bool = False) -> Intervention:
    """An intervention from what `protocol.to_json` returned; see `Condition.from_json`."""
    settings = dict(value)
    kind = kind_of(settings.pop("kind", None), import_modules)
    for each in fields(kind):
        inside = settings.get(each.name)
        if each.metadata == CALL and isinstance(inside, dict):
            settings[each.name] = from_json(inside, import_modules)
    return build(kind, settings)


def _module(name: str, import_modules: bool) -> Any:
    """A module by its name, which is looked for in the working directory too."""
    if name in sys.modules:
        return sys.modules[name]
    if not import_modules:
        raise ValueError(
            f"intervention of module {name!r}: the module is not imported; import it first if you "
            "trust it, or name it on the command line or in the YAML file of a sweep"
        )
    here = os.getcwd()
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"intervention of module {name!r}: {error}; expected a module that Python finds, or "
            f"one in {here}"
        ) from None
    finally:
        sys.path.remove(here)


def _place(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
