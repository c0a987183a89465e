"""Steering vectors: a direction in the residual stream, its origin, and its file."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_lens.common.files import replacing
from mi_lens.common.float64 import in_float64
from mi_lens.common.html import table
from mi_lens.common.provenance import content_hash
from mi_lens.common.records import DamagedError, sealed, verified
from mi_lens.problems.problem import Problem
from mi_lens.traces.thoughts import ThoughtClass

NUMBERS = "checksum of numbers"  # In the metadata, beside the checksum of the metadata themselves.


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """A direction in the residual stream, and what it was computed from.

    Attributes:
        hook_name: Where states were read and where the vector is to be added.
        vector: The vector in units of the residual stream, float32 or wider, on the CPU.
        model: Fingerprint of the model.
        recipe: The mean states that were subtracted from each other (`mi_lens.steering.seal`).
        rule: Name of the rule that assigned a class to every thought.
        counts: Number of thoughts per class.
        problems: The problems whose traces were used: key (`Problem.key`) to id. Older files have
            keys of another form; `is_among` accepts both.
        reliability: Cosine between the vectors of two halves of the problems; None where a half
            lacks a class.
    """

    hook_name: str
    vector: Float[Tensor, "d"]
    model: str
    recipe: str
    rule: str
    counts: dict[ThoughtClass, int]
    problems: dict[str, str]
    reliability: float | None

    @property
    def norm(self) -> float:
        """The vector's length."""
        return float(in_float64(self.vector).norm())

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Ids of the problems whose traces were used."""
        return tuple(self.problems.values())

    def __repr__(self) -> str:
        thoughts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        halves = "undefined" if self.reliability is None else f"{self.reliability:.3f}"
        return (
            f"SteeringVector({self.recipe} at {self.hook_name}, d={len(self.vector)}, "
            f"norm {self.norm:.4g}, reliability {halves}; {thoughts} by rule {self.rule!r} from "
            f"{len(self.problems)} problems of model {self.model})"
        )

    def _repr_html_(self) -> str:
        thoughts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        about = {
            "hook name": self.hook_name,
            "norm": self.norm,
            "coordinates": len(self.vector),
            "recipe": self.recipe,
            "thoughts": f"{thoughts} (rule {self.rule!r})",
            "made from": f"{len(self.problems):,} problems, model {self.model}",
            "cosine of two halves": self.reliability,
        }
        return table(about, caption="steering vector")

    def check_unused(self, problems: Iterable[Problem]) -> None:
        """Refuses problems that the vector was computed from; call it before an evaluation.

        Raises:
            ValueError: If the vector was computed from one of the problems.
        """
        purpose = f"compute the vector at {self.hook_name}"
        require_unused(problems, self.problems, purpose, "evaluate on others")

    def save(self, path: str | Path) -> None:
        """Writes the vector to a file of its own, as `save_vectors` does."""
        save_vectors([self], path)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVector":
        """Reads a file that holds a single vector.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is incomplete, or holds several vectors.
        """
        vectors = load_vectors(path)
        if len(vectors) != 1:
            raise ValueError(
                f"{path} holds {len(vectors)} vectors, at {sorted(vectors)}; read it with "
                "load_vectors and choose one"
            )
        return next(iter(vectors.values()))


def is_among(problem: Problem, keys: Collection[str]) -> bool:
    r"""Whether the key of a problem is among the keys.

    A key is a `Problem.key`. In older files it is a hash of the question that ignores only spacing
    and case, so that \dfrac and \frac give different keys.
    """
    older_key = content_hash(" ".join(problem.question.split()).casefold())
    return problem.key in keys or older_key in keys


def require_unused(
    problems: Iterable[Problem], keys: Collection[str], purpose: str, instead: str
) -> None:
    """Refuses problems that something was made from.

    Args:
        problems: The problems that are to be used now.
        keys: The keys of those that were used.
        purpose: What they were used to do, for the error.
        instead: What to do, for the error.

    Raises:
        ValueError: If one of the problems was used.
    """
    candidates = list(problems)
    used = [problem.id for problem in candidates if is_among(problem, keys)]
    if used:
        raise ValueError(
            f"{len(used)} of {len(candidates)} problems were used to {purpose}, {used[0]!r} first; "
            f"{instead}, or pass allow_overlap=True"
        )


def save_vectors(
    vectors: Mapping[str, SteeringVector] | Iterable[SteeringVector], path: str | Path
) -> None:
    """Writes vectors of different hook names into one safetensors file, with metadata as JSON.

    Args:
        vectors: The vectors; or a mapping whose values they are, such as
            `extract_steering_vectors` returns.
        path: The file.

    Raises:
        ValueError: If there are no vectors, or two at the same hook name.
    """
    tensors, metadata = {}, {}
    for vector in vectors.values() if isinstance(vectors, Mapping) else vectors:
        if vector.hook_name in tensors:
            raise ValueError(
                f"two vectors at {vector.hook_name!r}; expected one per hook name in a file"
            )
        kept = vector.vector.detach().to("cpu", copy=True).contiguous()
        tensors[vector.hook_name] = kept
        about = {k: v for k, v in vars(vector).items() if k not in ("hook_name", "vector")}
        metadata[vector.hook_name] = sealed({**about, NUMBERS: _checksum(kept)})
    if not tensors:
        raise ValueError("no vectors to save; expected at least one")
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_vectors(path: str | Path) -> dict[str, SteeringVector]:
    """Reads what `save_vectors` wrote.

    Returns:
        Hook name to vector.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is incomplete, or holds tensors other than steering vectors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of steering vectors")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            return {
                name: _read(name, file.get_tensor(name), metadata[name])
                for name in sorted(file.keys(), key=_by_number)
            }
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole file of steering vectors ({type(error).__name__}: {error}); "
            "expected what save_vectors writes; read GGUF with load_gguf"
        ) from error


def _read(name: str, numbers: Tensor, metadata: str) -> SteeringVector:
    about = verified(metadata.encode(), name, required=False)  # others may write such files too
    checksum = about.pop(NUMBERS, None)
    if checksum is not None and checksum != _checksum(numbers):
        raise DamagedError(f"{name}: its numbers were altered since they were written")
    return SteeringVector(name, numbers, **about)


def _checksum(numbers: Tensor) -> str:
    return f"{crc32(numbers.view(torch.uint8).numpy().data):08x}"


def _by_number(name: str) -> list[int | str]:
    """A sort key that puts blocks.2 before blocks.10: every second part is a number."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
