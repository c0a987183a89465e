"""What a sweep runs, as a YAML file says it: conditions and a grid, checked before any run."""

import re
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from mi_lens.interventions.condition import Condition, parse_condition
from mi_lens.runs.config import RunSettings


@dataclass(frozen=True)
class Spec(RunSettings):
    """What a sweep runs; a YAML file of the same names, those of `RunSettings` among them.

    Attributes:
        conditions: As for `mi-lens evaluate`: "quiet=Suppress(['Wait'])". A name in braces runs
            through its list in `grid`: "rr{layer}=Recycle({layer}, ['Wait'])". The first is what
            the others are compared with.
        grid: Name to its values.
        models: Checkpoints.
        seeds: Of the sampling.
        unit: Problems in a unit.
        batch_size: Jobs decoded together; does not change results.
    """

    conditions: tuple[str, ...]
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    models: tuple[str, ...] = ("pocket-reasoner",)
    seeds: tuple[int, ...] = (0,)
    unit: int = 16
    batch_size: int = 64

    def __post_init__(self):
        if not self.conditions or not self.models or not self.seeds:
            raise ValueError("a sweep needs at least one of each: conditions, models, seeds")
        if self.unit < 1 or self.batch_size < 1:
            raise ValueError(f"unit={self.unit}, batch_size={self.batch_size}: expected 1 or more")
        names = [condition.name for condition in self.expand()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"several conditions are named {twice}; put the grid's names into it")

    def expand(self) -> list[Condition]:
        """The conditions, those with names in braces once for every value of the grid.

        Raises:
            ValueError: If a text is no condition, or braces hold a name that the grid lacks.
        """
        sampling = self.sampling()
        found = []
        for text in self.conditions:
            names = list(dict.fromkeys(re.findall(r"{(\w+)}", text)))
            unknown = [name for name in names if name not in self.grid]
            if unknown:
                raise ValueError(f"condition {text!r}: the grid has no {unknown}; it has "
                                 f"{sorted(self.grid)}")  # fmt: skip
            for values in product(*(self.grid[name] for name in names)):
                filled = text
                for name, value in zip(names, values, strict=True):
                    filled = filled.replace(f"{{{name}}}", str(value))
                one = parse_condition(filled)
                found.append(Condition(one.interventions, sampling, one.name))
        return found

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Spec":
        """A spec from settings as a file has them.

        Raises:
            ValueError: Naming a key that is unknown or missing, or a setting that is impossible.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(settings.keys() - set(known))
        if unknown:
            raise ValueError(f"sweep: unknown {unknown}; expected some of {known}")
        if "conditions" not in settings:
            raise ValueError("sweep: no conditions; expected a list of at least one")
        made = {key: _frozen(key, value) for key, value in settings.items()}
        made["grid"] = {
            name: tuple(values) if isinstance(values, list) else (values,)
            for name, values in (settings.get("grid") or {}).items()
        }
        return cls(**made)

    @classmethod
    def read(cls, path: str | Path) -> "Spec":
        """A spec from a YAML (or JSON) file; paths in it are relative to where one stands.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: As `of`, or if the file is not YAML.
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
            raise ValueError(f"{path}: expected names and values, as 'conditions: [baseline]'")
        try:
            return cls.of(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _frozen(key: str, value: Any) -> Any:
    if key in ("conditions", "models", "seeds", "stop"):
        return tuple(value) if isinstance(value, list) else (value,)
    return value
