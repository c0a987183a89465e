"""Ends the thinking where a probe says that the answer is right already: no trial is decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_lens.common.checked_types import require_types
from mi_lens.common.provenance import content_hash
from mi_lens.interventions.plain_hooks import PlainPasses
from mi_lens.interventions.probe import StateProbe
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.traces.think_block import leaving_text, require_lines


@dataclass(frozen=True, eq=False)
class ProbeExit(Intervention):
    r"""Ends the thinking at the first boundary at which a probe is sure of the answer.

    The probe reads the state at each boundary inside the think block. What it says there is an
    event "probe" of the trace, with its probability ("right", rounded to 4 digits).

    Attributes:
        probe: A `StateProbe` of `train_correctness_probe`, or the path of its file.
        threshold: The thinking ends if the probability of a right answer is above it.
        ending: The text that ends the thinking. None takes that of the model's think block, such as
            "\n</think>\n\n".
        allow_overlap: Whether generation on the problems that the probe was trained on is allowed.
    """

    probe: Any
    threshold: float = 0.5
    ending: str | None = None
    allow_overlap: bool = False

    def __post_init__(self):
        object.__setattr__(self, "probe", StateProbe.of(self.probe))
        require_types(self, ("threshold", "ending", "allow_overlap"))
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: expected a probability, 0 to 1")
        if self.ending == "":
            raise ValueError("ending='': expected a text")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProbeExit) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(content_hash(self.to_json()))

    @property
    def hook_name(self) -> str:
        """Where the probe reads."""
        return self.probe.hook_name

    def check(self, problem: Problem) -> None:
        """See `Intervention.check`."""
        self.probe.check(problem, self.allow_overlap, "ProbeExit")

    def check_model(self, fingerprint: str) -> None:
        """See `Intervention.check_model`."""
        self.probe.check_model(fingerprint)

    def bind(self, model: Model) -> Action:
        """See `Intervention.bind`."""
        self.probe.require_fit(model)
        require_lines(model.tokenizer)
        ending = self.ending or leaving_text(model.tokenizer)
        return _ProbeExit(self, model.tokenizer.encode(ending, add_special_tokens=False))

    def to_json(self):
        """See `Intervention.to_json`."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return settings | {"probe": self.probe.to_json()}


class _ProbeExit(Action):
    by_position = True

    def __init__(self, settings: ProbeExit, ending: Sequence[int]):
        self.probe, self.threshold, self.ending = settings.probe, settings.threshold, ending
        self.hook_names = (settings.hook_name,)

    def plain_hooks(
        self, model: Model, passes: PlainPasses, name: str
    ) -> list[tuple[str, Callable[..., Any]]]:
        """See `Action.plain_hooks`: no state is changed."""
        return []

    def will_edit(self, row: Row) -> bool:
        """See `Action.will_edit`. A state that it reads must be the row's own."""
        if row.trial is not None or not row.step or not row.at_boundary(row.step):
            return False
        return row.thinking() and all(event["what"] != "exit" for event in row.events)

    def edit(
        self, hook_name: str, states: Float[Tensor, "rows pos d"], rows: Sequence[Row]
    ) -> Float[Tensor, "rows pos d"]:
        """See `Action.edit`; the states stay as they are."""
        places = [place for place, row in enumerate(rows) if self.will_edit(row)]
        if places:
            numbers = self.probe.probabilities(states[:, -1])
            for place in places:
                rows[place].measuring[self.probe.key] = numbers[place]
        return states

    def replace(self, row: Row, candidate: int, end_ids: frozenset[int]) -> int:
        """See `Action.replace`."""
        right = row.numbers.get(self.probe.key)
        if right is None or not self.will_edit(row):
            return candidate
        row.note("probe", right=round(right, 4))
        return row.write("exit", candidate, self.ending) if right > self.threshold else candidate
