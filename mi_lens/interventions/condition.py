"""A condition: interventions and sampling settings under a name; converted to JSON and back.

Interventions are made by the name of their class: one of `KINDS`, one that `register_intervention`
was given, or "module:Class". Only a text that the user types may import a module; what a file of
results names is never imported.
"""

import ast
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from mi_lens.common.calls import as_expression, build, from_call
from mi_lens.common.html import one_line, table
from mi_lens.common.provenance import content_hash
from mi_lens.interventions.gate import parts_of
from mi_lens.interventions.kinds import from_json, is_known, kind_of
from mi_lens.interventions.protocol import Action, Intervention, to_json
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.model import Model

MARK = "@"  # Begins the name of a set of conditions (`mi_lens.evaluation.condition_sets`).


@dataclass(frozen=True)
class Condition:
    """Interventions, in the order in which they act, and sampling settings.

    Attributes:
        interventions: An empty tuple is the baseline.
        sampling: How tokens are drawn.
        name: A label for tables and figures; it changes no result. If it is empty, the condition
            is named after its interventions.
    """

    interventions: tuple[Intervention, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    name: str = field(default="", compare=False)

    def __post_init__(self):
        object.__setattr__(self, "interventions", tuple(self.interventions))
        parts = parts_of(self.interventions)
        recycles = [part for part in parts if isinstance(part, Recycle)]
        blocks = [block for recycle in recycles for block in recycle.blocks]
        if len(recycles) > 1 and (
            any(recycle.trigger == "candidate" for recycle in recycles)
            or len(set(blocks)) < len(blocks)
        ):
            raise ValueError(
                "a condition may recycle several layers at consumed tokens, each layer once; with "
                "trigger='candidate' it may hold only one Recycle: a second would act on a state "
                "that is only partly computed"
            )
        if not self.name:
            names = " + ".join(map(repr, self.interventions))
            object.__setattr__(self, "name", names or "baseline")

    def __repr__(self) -> str:
        acts = one_line(" + ".join(map(repr, self.interventions)) or "no intervention", 140)
        name = one_line(self.name, 60)
        return f"Condition({name!r}: {acts}; temperature {self.sampling.temperature:g})"

    def _repr_html_(self) -> str:
        acts = [(i, repr(each)) for i, each in enumerate(self.interventions, start=1)]
        sampling = [(name, value) for name, value in asdict(self.sampling).items()]
        return table([*acts, *sampling], ("", ""), f"condition {self.name!r}")

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON-able values, which `from_json` reads."""
        return {
            "name": self.name,
            "sampling": asdict(self.sampling),
            "interventions": [to_json(intervention) for intervention in self.interventions],
        }

    def describe(self) -> dict[str, Any]:
        """All settings as JSON, in which a hash replaces every long list of numbers."""
        settings = self.to_json()
        settings["interventions"] = list(map(_short, settings["interventions"]))
        return settings

    @classmethod
    def from_json(cls, value: dict[str, Any], *, import_modules: bool = False) -> "Condition":
        """A condition from what `to_json` returned, or from JSON of your own.

        Args:
            value: The JSON object.
            import_modules: Whether a kind "module:Class" may import its module. Leave it False for
                a file that others wrote: a module that is imported runs its code.

        Raises:
            ValueError: If a key or a kind is unknown, or a setting is impossible.
        """
        unknown = value.keys() - {"name", "sampling", "interventions"}
        if unknown:
            raise ValueError(
                f"condition: unknown {sorted(unknown)}; expected name, sampling, interventions"
            )
        return cls(
            tuple(from_json(each, import_modules) for each in value.get("interventions", ())),
            build(Sampling, value.get("sampling", {})),
            value.get("name", ""),
        )


def parse_intervention(text: str, *, import_modules: bool = False) -> Intervention:
    """An intervention from the text of a Python call, such as "Suppress(['Wait', 'Hmm'])".

    Arguments must be literals. The class is one of this package, a registered one
    (`register_intervention`), or written "my_module:ZeroHead(layer=1, head=0)".

    Args:
        text: The call.
        import_modules: Whether "my_module" may be imported, also from the working directory. If
            not, it must be imported already, and no code in the text or by its name is run.

    Raises:
        ValueError: If the text is not such a call; the message says what is wrong.
    """
    kind = partial(kind_of, import_modules=import_modules)
    return from_call(text, kind, what="intervention", example="Suppress(['Wait', 'Hmm'])")


def parse_condition(text: str, *, import_modules: bool = False) -> Condition:
    """A condition from a text such as "name=Suppress(['Wait']) + Recycle(2, ['So'])".

    A name alone gives a condition without interventions. Interventions without a name give a
    condition that is named after them.

    Args:
        text: The condition.
        import_modules: As in `parse_intervention`.

    Raises:
        ValueError: If the text is no condition; the message says what is wrong.
    """
    name, calls = _name_and_calls(text)
    try:
        parts = [parse_intervention(call, import_modules=import_modules) for call in calls]
    except ValueError as error:
        raise ValueError(f"condition {name!r}: {error}" if name else str(error)) from error
    return Condition(tuple(parts), name=name)


def recorded_condition(text: str) -> Condition:
    """The condition that a file of results names; nothing is imported.

    An intervention whose class is not here stands as `Unloaded`: results can be read, but nothing
    can be generated.

    Raises:
        ValueError: If the text is no condition.
    """
    name, calls = _name_and_calls(text)
    return Condition(tuple(map(_recorded_intervention, calls)), name=name)


@dataclass(frozen=True, repr=False)
class Unloaded(Intervention):
    """An intervention of a class that is not here, as its text.

    Attributes:
        text: The call that made it.
    """

    text: str

    def __repr__(self) -> str:
        return re.sub(r"^[\w.]+\.(?=\w+\()", "", self.text)

    def bind(self, model: Model) -> Action:
        """Raises a ValueError: the class is not here."""
        raise ValueError(f"{self.text}: its class is not loaded; import its module and register it")

    def to_json(self) -> dict[str, Any]:
        """See `Intervention.to_json`."""
        return asdict(self)


def _recorded_intervention(call: str) -> Intervention:
    function = call.partition("(")[0]
    if is_known(function):
        with suppress(OSError, ValueError):  # its file of a vector is gone, or is another now
            return parse_intervention(call)
    return Unloaded(call)


def _name_and_calls(text: str) -> tuple[str, list[str]]:
    """The name in a condition's text, and the calls that make its interventions."""
    if text.lstrip().startswith(MARK):
        raise ValueError(
            f"condition {text!r}: a set of conditions, which only mi-lens evaluate makes; expected "
            "one condition, such as \"name=Suppress(['Wait'])\""
        )
    match = re.fullmatch(r"\s*([\w.\- ]+?)\s*(?:=(?!=)\s*(.+))?", text, re.DOTALL)
    name, interventions = match.groups() if match else ("", text)
    if interventions is None:
        return name, []
    try:
        tree = ast.parse(as_expression(interventions), mode="eval").body
    except SyntaxError:
        raise ValueError(
            f"condition {text!r}: expected \"name=Suppress(['Wait']) + Recycle(2, ['So'])\""
        ) from None
    calls = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        calls.append(tree.right)
        tree = tree.left
    return name, [ast.unparse(call) for call in [tree, *reversed(calls)]]


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(setting) for key, setting in value.items()}
    if isinstance(value, list | tuple) and len(value) > 64:
        return {"length": len(value), "hash": content_hash(list(value))}
    return value
