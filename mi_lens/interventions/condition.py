"""A condition: interventions and sampling settings under a name; converted to JSON and back."""

import ast
import importlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from mi_lens.common.calls import build, from_call
from mi_lens.common.html import one_line, table
from mi_lens.interventions.protocol import Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.sampling import Sampling

KINDS = {
    "Continue": "mi_lens.interventions.extend",
    "ForbidAt": "mi_lens.interventions.forbid",
    "LogitPenalty": "mi_lens.interventions.suppress",
    "RaiseTemperature": "mi_lens.interventions.temperature",
    "Recycle": "mi_lens.interventions.recycle",
    "Steer": "mi_lens.interventions.steer",
    "Suppress": "mi_lens.interventions.suppress",
}


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
        recycles = [part for part in self.interventions if isinstance(part, Recycle)]
        if len(recycles) > 1 and (
            any(recycle.trigger == "candidate" for recycle in recycles)
            or len({recycle.layer for recycle in recycles}) < len(recycles)
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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Condition":
        """A condition from what `to_json` returned.

        Raises:
            ValueError: If a key or a kind is unknown, or a setting is impossible.
        """
        unknown = value.keys() - {"name", "sampling", "interventions"}
        if unknown:
            raise ValueError(
                f"condition: unknown {sorted(unknown)}; expected name, sampling, interventions"
            )
        return cls(
            tuple(map(from_json, value.get("interventions", ()))),
            build(Sampling, value.get("sampling", {})),
            value.get("name", ""),
        )


def to_json(intervention: Intervention) -> dict[str, Any]:
    """An intervention's settings, with the name of its class as "kind"."""
    settings = json.loads(json.dumps(intervention.to_json(), allow_nan=False))
    return {"kind": type(intervention).__name__, **settings}


def from_json(value: dict[str, Any]) -> Intervention:
    """An intervention from what `to_json` returned."""
    settings = dict(value)
    return build(_kind(settings.pop("kind", None)), settings)


def parse_intervention(text: str) -> Intervention:
    """An intervention from the text of a Python call, such as "Suppress(['Wait', 'Hmm'])".

    Arguments must be literals; no code is run.

    Raises:
        ValueError: If the text is not such a call; the message says what is wrong.
    """
    return from_call(text, _kind, what="intervention", example="Suppress(['Wait', 'Hmm'])")


def parse_condition(text: str) -> Condition:
    """A condition from a text such as "name=Suppress(['Wait']) + Recycle(2, ['So'])".

    A name alone gives a condition without interventions. Interventions without a name give a
    condition that is named after them.

    Raises:
        ValueError: If the text is no condition; the message says what is wrong.
    """
    match = re.fullmatch(r"\s*([\w.\- ]+?)\s*(?:=(?!=)\s*(.+))?", text, re.DOTALL)
    name, interventions = match.groups() if match else ("", text)
    if interventions is None:
        return Condition(name=name)
    try:
        tree = ast.parse(interventions.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(
            f"condition {text!r}: expected \"name=Suppress(['Wait']) + Recycle(2, ['So'])\""
        ) from None
    calls = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        calls.append(tree.right)
        tree = tree.left
    parts = [parse_intervention(ast.unparse(call)) for call in [tree, *reversed(calls)]]
    return Condition(tuple(parts), name=name)


def _kind(name: Any) -> Any:
    if name not in KINDS:
        raise ValueError(f"intervention {name!r}: expected one of {sorted(KINDS)}")
    return getattr(importlib.import_module(KINDS[name]), name)
