"""Sets of conditions by name: "@controls" stands for many conditions, made for one model.

What a set's conditions need, such as vectors and words, comes from traces of problems that are not
evaluated. They are made once per run and kept in its folder, so that a killed run goes on with the
same conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from mi_lens.common.records import read_record, write_record
from mi_lens.interventions.condition import MARK, Condition, recorded_condition
from mi_lens.models.model import Model
from mi_lens.traces.trace import Trace

KEPT = "condition_sets.json"


@dataclass(frozen=True)
class Made:
    """The conditions of a set.

    Attributes:
        conditions: The conditions, each with a name of its own.
        left_out: Name to reason of those that could not be made, or that the engine cannot run.
    """

    conditions: tuple[Condition, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class ConditionSet(Protocol):
    """The settings of a set: a frozen dataclass, written "@controls(limit=100)".

    Attributes:
        problems: Source of the problems whose traces the set needs, as `load_problems` reads it;
            None means the train split of the problems that are evaluated.
        limit: Number of these problems.
    """

    @property
    def problems(self) -> str | None: ...

    @property
    def limit(self) -> int: ...

    def make(self, model: Model, traces: Sequence[Trace]) -> Made:
        """The conditions for a model, from its own traces of these problems.

        Args:
            model: A HookedTransformer or TransformerBridge, whose states can be read.
            traces: Its traces without interventions, with their problems.
        """
        ...


def is_set(text: str) -> bool:
    """Whether a text names a set, and not a condition."""
    return text.lstrip().startswith(MARK)


def keep_sets(folder: Path, made: Mapping[str, Made]) -> None:
    """Writes the sets of a run, by their texts, into its folder."""
    write_record(
        folder / KEPT,
        {
            text: {
                "conditions": [condition.to_json() for condition in of_text.conditions],
                "left out": dict(of_text.left_out),
            }
            for text, of_text in made.items()
        },
    )


def kept_sets(folder: Path) -> dict[str, Made]:
    """The sets of a run, by their texts; empty until they are made."""
    if not (folder / KEPT).exists():
        return {}
    return {
        text: Made(tuple(map(Condition.from_json, row["conditions"])), row["left out"])
        for text, row in read_record(folder, KEPT).items()
        if isinstance(row, dict)
    }


def names_in(folder: Path, texts: Sequence[str]) -> list[str]:
    """The names of a run's conditions, in order; those of a set are not known until it is made.

    No intervention is made, and nothing is imported.
    """
    made = read_record(folder, KEPT) if (folder / KEPT).exists() else {}
    names = []
    for text in texts:
        if is_set(text):
            names += [row["name"] for row in made.get(text, {}).get("conditions", ())]
        else:
            names.append(recorded_condition(text).name)
    return names
