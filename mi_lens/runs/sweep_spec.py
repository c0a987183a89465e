"""The spec of a sweep, from a YAML file: conditions and a grid, checked before anything runs."""

import re
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from mi_lens.common.checked_types import require_at_least, require_distinct
from mi_lens.evaluation.result import Result
from mi_lens.interventions.condition import Condition, parse_condition, recorded_condition
from mi_lens.runs.settings import RunSettings

COLUMNS = {"model", *(field.name for field in fields(Result))}  # Of the table of results.


@dataclass(frozen=True)
class Point:
    """A condition of a sweep, and its place on the grid.

    Attributes:
        condition: The condition.
        family: Its name before the values of the grid were put in, such as "rr{layer}".
        values: Name in the grid to the condition's value.
    """

    condition: Condition
    family: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Spec(RunSettings):
    """The settings of a sweep; a YAML file has the same names, including those of `RunSettings`.

    Attributes:
        conditions: Conditions as for `mi-lens evaluate`: "quiet=Suppress(['Wait'])". A name in
            braces takes every value of its list in `grid`: "rr{layer}=Recycle({layer}, ['Wait'])".
            The others are compared with the first.
        grid: Name to its values.
        models: Checkpoints.
        seeds: Sampling seeds.
        unit: Number of problems in a unit.
        batch_size: Number of traces decoded together; does not change results.
    """

    conditions: tuple[str, ...]
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = ("pocket-reasoner",)
    seeds: tuple[int, ...] = (0,)
    unit: int = 16
    batch_size: int = 64

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, unit=1, batch_size=1)
        for name in ("conditions", "models", "seeds"):
            require_distinct(name, getattr(self, name))
        names = [condition.name for condition in self.expand()]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"several conditions are named {repeated}; put the names of the grid, in braces, "
                "into the condition's name"
            )
        if taken := sorted(self.grid.keys() & COLUMNS):
            raise ValueError(
                f"grid: {taken} are columns of the table of results already; choose other names"
            )

    def expand(self) -> list[Condition]:
        """The conditions; one with names in braces is repeated for every value of the grid."""
        return [point.condition for point in self.points()]

    def points(self) -> list[Point]:
        """The conditions with their places on the grid, in order.

        Raises:
            ValueError: If a text is no condition, or braces hold a name that the grid lacks.
        """
        sampling = self.sampling()
        points = []
        for text in self.conditions:
            names = list(dict.fromkeys(re.findall(r"{(\w+)}", text)))
            unknown = [name for name in names if name not in self.grid]
            if unknown:
                raise ValueError(
                    f"condition {text!r}: the grid has no {unknown}; it has {sorted(self.grid)}"
                )
            for values in product(*(self.grid[name] for name in names)):
                expanded = text
                for name, value in zip(names, values, strict=True):
                    expanded = expanded.replace(f"{{{name}}}", str(value))
                condition = self.condition(expanded)
                condition = Condition(condition.interventions, sampling, condition.name)
                family = text.partition("=")[0].strip() if names else condition.name
                points.append(Point(condition, family, dict(zip(names, values, strict=True))))
        return points

    def condition(self, text: str) -> Condition:
        """The condition of a text that the user wrote, which may name a module to import."""
        return parse_condition(text, import_modules=True)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Spec":
        """A spec from the settings in a file.

        Raises:
            ValueError: If a key is unknown or missing, or a setting is impossible.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(settings.keys() - set(known))
        if unknown:
            raise ValueError(f"sweep: unknown {unknown}; expected some of {known}")
        if "conditions" not in settings:
            raise ValueError("sweep: no conditions; expected a list of at least one")
        fields_by_name = {key: _frozen(key, value) for key, value in settings.items()}
        grid = settings.get("grid") or {}
        if not isinstance(grid, dict):
            raise ValueError(f"grid={grid!r}: expected names with lists of values, 'layer: [0, 1]'")
        fields_by_name["grid"] = {
            name: tuple(values) if isinstance(values, list) else (values,)
            for name, values in grid.items()
        }
        return cls(**fields_by_name)

    @classmethod
    def read(cls, path: str | Path) -> "Spec":
        """A spec from a YAML (or JSON) file; its paths are relative to the working directory.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: For the reasons of `of`, or if the file is not YAML.
        """
        import yaml

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the path of a YAML file")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {error}") from None
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: expected names and values, such as 'conditions: [baseline]'")
        try:
            return cls.of(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


class RecordedSpec(Spec):
    """The spec in a sweep's folder: its conditions are named and counted; nothing is imported."""

    def condition(self, text: str) -> Condition:
        """See `recorded_condition`."""
        return recorded_condition(text)


def _frozen(key: str, value: Any) -> Any:
    if key in ("conditions", "models", "seeds", "stop", "engine_options"):
        return tuple(value) if isinstance(value, list) else (value,)
    return value
