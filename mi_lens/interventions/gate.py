"""Gates: an intervention acts only at steps at which a condition holds.

A condition is on a number of a step, or on the step itself:

    entropy   The entropy, in bits, of the next-token distribution at temperature 1, of the logits
              before interventions change them; of those computed last, if blocks ran again.
    probe     The probability that a linear probe gives, of the state at a hook name after earlier
              interventions edited it (`mi_lens.interventions.probe`).
    steps     The number of the step.
    times     How often the gate has let the intervention act before.

Which step's numbers count depends on what the intervention does:

    choice    What acts on logits, on how a token is drawn, or on the candidate: this step's. A
              gate around `Recycle(trigger="candidate")` opens by the distribution that proposed
              the word.
    states    What acts on states while a token is read (`Steer`, `Recycle(trigger="consumed")`):
              those of the step that emitted the token. They are known by then. A token of the
              prompt or of a prefix was not emitted, so such a gate is closed in the first step.

The first step, which reads the whole prompt, is one step, with the number of the token that it
emits. A number comes to the host with the candidate; where logits or a temperature depend on it,
the device decides. Every step at which a gate let its intervention act is an event of the trace, by
which the trace is read again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from mi_lens.common.calls import CALL
from mi_lens.common.checked_types import require_at_least, require_types
from mi_lens.common.provenance import content_hash
from mi_lens.interventions.gate_action import GateAction
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.protocol import Action, Intervention, to_json
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem


@dataclass(frozen=True, eq=False)
class Gate(Intervention):
    """Lets an intervention act only where all of some conditions hold.

    Attributes:
        intervention: What acts.
        entropy: In bits: opens where the next-token entropy is above. `entropy_quantile` gives a
            quantile of the model's own.
        probe: A `StateProbe`, or the path of its file: opens where its probability is above
            `above`.
        above: See `probe`.
        steps: The first and the last step at which it may open; None as the last means to the end.
        times: The most steps at which it lets the intervention act. A step counts if the
            intervention has something to do there: a block to run again, states to change, a token
            to replace, or another temperature. One that acts on logits has at every step.
        allow_overlap: Whether generation is allowed on problems that the probe was trained on.
    """

    intervention: Any = field(metadata=CALL)
    entropy: float | None = None
    probe: Any = None
    above: float = 0.5
    steps: Sequence[int | None] | None = None
    times: int | None = None
    allow_overlap: bool = False

    def __post_init__(self):
        set_field = object.__setattr__.__get__(self)
        if self.probe is not None:
            set_field("probe", StateProbe.of(self.probe))
        if self.steps is not None:
            set_field("steps", tuple(self.steps))
        require_types(self, ("entropy", "above", "steps", "times", "allow_overlap"))
        require_at_least(self, entropy=0, times=1)
        set_field("above", float(self.above))
        if self.entropy is not None:
            set_field("entropy", float(self.entropy))
        if not isinstance(self.intervention, Intervention) or isinstance(self.intervention, Gate):
            raise ValueError(
                f"intervention={self.intervention!r}: expected an intervention that is no gate; "
                "one gate takes several conditions"
            )
        if self.entropy is not None and not isfinite(self.entropy):
            raise ValueError(f"entropy={self.entropy}: expected a finite number of bits")
        if not 0 <= self.above <= 1:
            raise ValueError(f"above={self.above}: expected a probability, from 0 to 1")
        if self.steps is not None:
            _require_steps(self.steps)
        if all(each is None for each in (self.entropy, self.probe, self.steps, self.times)):
            raise ValueError("a gate without a condition; give entropy=, probe=, steps= or times=")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gate) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(content_hash(self.to_json()))

    def __repr__(self) -> str:
        inner, *others = fields(self)
        told = [repr(getattr(self, inner.name))]
        told += [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in others
            if getattr(self, each.name) != each.default
        ]
        return f"Gate({', '.join(told)})"

    def check(self, problem: Problem) -> None:
        """See `Intervention.check`."""
        self.intervention.check(problem)
        if self.probe is not None:
            self.probe.check(problem, self.allow_overlap, "Gate")

    def check_model(self, fingerprint: str) -> None:
        """See `Intervention.check_model`."""
        self.intervention.check_model(fingerprint)
        if self.probe is not None:
            self.probe.check_model(fingerprint)

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        if self.probe is not None:
            self.probe.require_fit(model)
        bounds = {} if self.entropy is None else {"entropy": self.entropy}
        steps = (0, None) if self.steps is None else self.steps
        return GateAction(
            self.intervention.bind(model),
            content_hash(to_json(self)),
            bounds,
            None if self.probe is None else (self.probe, self.above),
            (steps[0] or 0, steps[1]),
            self.times,
        )

    def to_json(self):
        """See `Intervention.to_json`."""
        settings = {each.name: getattr(self, each.name) for each in fields(self)}
        return settings | {
            "intervention": to_json(self.intervention),
            "probe": None if self.probe is None else self.probe.to_json(),
            "steps": None if self.steps is None else list(self.steps),
        }


def _require_steps(steps: Sequence[int | None]) -> None:
    first, last = steps if len(steps) == 2 else (None, None)
    if first is None or first < 0 or (last is not None and last < first):
        raise ValueError(
            f"steps={steps!r}: expected the first and the last step, such as (10, 60) or (10, None)"
        )


def parts_of(interventions: Iterable[Intervention]) -> Iterator[Intervention]:
    """Interventions, and behind each gate what is inside of it."""
    for intervention in interventions:
        yield intervention
        if isinstance(intervention, Gate):
            yield intervention.intervention
