"""A condition: what is done to a generation, under a name, as JSON and back."""

import ast
import importlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from mi_lens.common.calls import build, from_call
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
    """Interventions, in the order in which they act, and how tokens are drawn.

    Attributes:
        interventions: None is the baseline.
        sampling: How tokens are drawn.
        name: For tables and figures; decides nothing. Empty gives a name made of the settings.
    """

    interventions: tuple[Intervention, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    name: str = field(default="", compare=False)

    def __post_init__(self):
        object.__setattr__(self, "interventions", tuple(self.interventions))
        recycled = [one for one in self.interventions if isinstance(one, Recycle)]
        if len(recycled) > 1 and (
            any(one.trigger == "candidate" for one in recycled)
            or len({one.layer for one in recycled}) < len(recycled)
        ):
            raise ValueError(
                "a condition may recycle several layers at consumed tokens, each once; with "
                "trigger='candidate' only one Recycle: the second would act on half a state"
            )
        if not self.name:
            names = " + ".join(map(repr, self.interventions))
            object.__setattr__(self, "name", names or "baseline")

    def to_json(self) -> dict[str, Any]:
        """All settings, JSON-able; `from_json` turns them back."""
        return {
            "name": self.name,
            "sampling": asdict(self.sampling),
            "interventions": [to_json(one) for one in self.interventions],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Condition":
        """A condition from what `to_json` gave.

        Raises:
            ValueError: Naming a key or a kind that is unknown, or a setting that is impossible.
        """
        unknown = value.keys() - {"name", "sampling", "interventions"}
        if unknown:
            raise ValueError(f"condition: unknown {sorted(unknown)}; expected name, sampling, "
                             "interventions")  # fmt: skip
        return cls(
            tuple(from_json(one) for one in value.get("interventions", ())),
            build(Sampling, value.get("sampling", {})),
            value.get("name", ""),
        )


def to_json(intervention: Intervention) -> dict[str, Any]:
    """An intervention's settings under the name of its class."""
    settings = json.loads(json.dumps(intervention.to_json(), allow_nan=False))
    return {"kind": type(intervention).__name__, **settings}


def from_json(value: dict[str, Any]) -> Intervention:
    """An intervention from what `to_json` gave."""
    settings = dict(value)
    return build(_kind(settings.pop("kind", None)), settings)


def parse_intervention(text: str) -> Intervention:
    """An intervention from a call as one would write it: "Suppress(['Wait', 'Hmm'])".

    Only literal arguments are read; nothing is run.

    Raises:
        ValueError: Saying what is wrong with the text.
    """
    return from_call(text, _kind, what="intervention", example="Suppress(['Wait', 'Hmm'])")


def parse_condition(text: str) -> Condition:
    """A condition as one would write it: "name=Suppress(['Wait']) + Recycle(2, ['So'])".

    A name alone is a condition without interventions; interventions alone name themselves.

    Raises:
        ValueError: Saying what is wrong with the text.
    """
    found = re.fullmatch(r"\s*([\w.\- ]+?)\s*(?:=(?!=)\s*(.+))?", text, re.DOTALL)
    name, acts = found.groups() if found else ("", text)
    if acts is None:
        return Condition(name=name)
    try:
        tree = ast.parse(acts.strip(), mode="eval").body
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
