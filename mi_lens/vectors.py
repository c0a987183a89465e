"""Steering vectors and their files: safetensors of our own, and GGUF as other engines read it.

GGUF control vectors (llama.cpp, repeng, EasySteer) hold a tensor direction.N for block N, added to
the block's output: `blocks.N.hook_resid_post`. SEAL counts otherwise. Its layer 20 is
`hidden_states[20]`, the input of block 20: `blocks.19.hook_resid_post`, so direction.19.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_lens.common.files import replacing
from mi_lens.common.html import table
from mi_lens.problems.problem import Problem, question_key
from mi_lens.traces.thoughts import ThoughtClass

BLOCK_OUTPUT = re.compile(r"blocks\.(\d+)\.hook_resid_post")
DIRECTION = re.compile(r"direction\.(\d+)")


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """A direction in the residual stream, and what it was made from.

    Attributes:
        hook_name: Where it was read and is to be added.
        vector: In units of the residual stream, float32 or wider, on the CPU.
        model: Fingerprint of the model.
        recipe: Which mean states it is the difference of (`mi_lens.seal`).
        rule: Name of the rule that told thoughts apart.
        counts: Thoughts by class.
        problems: The problems it was made from: `question_key` to id.
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
        """Its length."""
        return float(self.vector.double().norm())

    @property
    def problem_ids(self) -> tuple[str, ...]:
        """Ids of the problems it was made from."""
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
        """Refuses problems that the vector was made from; call it before an evaluation.

        Raises:
            ValueError: If a problem has a question among them.
        """
        known = list(problems)
        used = [problem.id for problem in known if question_key(problem) in self.problems]
        if used:
            raise ValueError(
                f"{len(used)} of {len(known)} problems were used to make the vector at "
                f"{self.hook_name}, {used[0]!r} first; evaluate on others, or say "
                "allow_overlap=True"
            )

    def save(self, path: str | Path) -> None:
        """Writes it alone, as `save_vectors` does."""
        save_vectors([self], path)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVector":
        """Reads a file of one vector.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not whole, or holds several vectors.
        """
        vectors = load_vectors(path)
        if len(vectors) != 1:
            raise ValueError(
                f"{path} holds {len(vectors)} vectors, at {sorted(vectors)}; read it with "
                "load_vectors and choose one"
            )
        return next(iter(vectors.values()))


def save_vectors(vectors: Iterable[SteeringVector], path: str | Path) -> None:
    """Writes vectors of different hook names as one safetensors file, metadata as JSON in it.

    Raises:
        ValueError: If there are none, or two at one hook name.
    """
    tensors, metadata = {}, {}
    for vector in vectors:
        if vector.hook_name in tensors:
            raise ValueError(
                f"two vectors at {vector.hook_name!r}; expected one a hook name in a file"
            )
        tensors[vector.hook_name] = vector.vector.detach().to("cpu", copy=True).contiguous()
        made_from = {k: v for k, v in vars(vector).items() if k not in ("hook_name", "vector")}
        metadata[vector.hook_name] = json.dumps(made_from, ensure_ascii=False, allow_nan=False)
    if not tensors:
        raise ValueError("no vectors to save; expected at least one")
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_vectors(path: str | Path) -> dict[str, SteeringVector]:
    """Reads what `save_vectors` wrote, by hook name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole, or holds other tensors than steering vectors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of steering vectors")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            return {
                name: SteeringVector(name, file.get_tensor(name), **json.loads(metadata[name]))
                for name in sorted(file.keys(), key=_by_number)
            }
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole file of steering vectors ({type(error).__name__}: {error}); "
            "expected what save_vectors writes; read GGUF with load_gguf"
        ) from error


def _by_number(name: str) -> list[int | str]:
    """Orders blocks.2 before blocks.10: every second part is a number."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def block_outputs(vectors: Iterable[SteeringVector]) -> dict[int, Float[Tensor, "d"]]:
    """Vectors by the block whose output they are, as `save_gguf` takes them.

    Raises:
        ValueError: If one is not at a block's hook_resid_post.
    """
    found = {}
    for vector in vectors:
        match = BLOCK_OUTPUT.fullmatch(vector.hook_name)
        if match is None:
            raise ValueError(
                f"a vector at {vector.hook_name!r} is no block's output; GGUF holds vectors at "
                "'blocks.N.hook_resid_post' (blocks.N.hook_resid_pre is the output of N - 1)"
            )
        found[int(match[1])] = vector.vector
    return found


def load_gguf(path: str | Path) -> dict[int, Float[Tensor, "d"]]:
    """Reads a GGUF control vector: block number N to direction.N, in float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not whole GGUF, no control vector, or quantised.
    """
    from gguf.gguf_reader import GGUFReader

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such GGUF file")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole GGUF file ({error}); fetch or export it again"
        ) from error
    architecture = fields.get("general.architecture")
    if architecture != "controlvector" or not tensors:
        raise ValueError(
            f"{path}: architecture {architecture!r} with {len(tensors)} tensors; expected a "
            "'controlvector' with tensors direction.N"
        )
    directions = {}
    for name, values in tensors.items():
        match = DIRECTION.fullmatch(name)
        if match is None or values.ndim != 1 or values.dtype not in (np.float16, np.float32):
            raise ValueError(
                f"{path}: tensor {name!r} of shape {values.shape} and type {values.dtype}; "
                "expected direction.N with d values in float16 or float32"
            )
        directions[int(match[1])] = torch.from_numpy(values.astype(np.float32))
    return dict(sorted(directions.items()))


def save_gguf(
    directions: Mapping[int, Float[Tensor, "d"]], path: str | Path, *, model_hint: str = "unknown"
) -> None:
    """Writes a GGUF control vector, in float32.

    llama.cpp adds nothing to block 0 and refuses a file with direction.0; EasySteer takes it.

    Args:
        directions: Block number N to what is added to the block's output.
        path: Of the file.
        model_hint: The model's architecture, such as "qwen2"; a note that engines may compare.

    Raises:
        ValueError: If there are no directions, a block number is negative, or lengths differ.
    """
    from gguf.gguf_writer import GGUFWriter

    if not directions:
        raise ValueError("no directions to save; expected at least one block's")
    if min(directions) < 0:
        raise ValueError(f"block {min(directions)}: expected numbers from 0, as in blocks.0")
    shapes = {tuple(direction.shape) for direction in directions.values()}
    if len(shapes) > 1:
        raise ValueError(f"directions of shapes {sorted(shapes)}; expected one length")
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(directions))
        for block, direction in sorted(directions.items()):
            values = direction.detach().to("cpu", torch.float32).numpy()
            writer.add_tensor(f"direction.{block}", np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
