"""GGUF control vectors, as llama.cpp, repeng and EasySteer read them.

A file holds a tensor direction.N for block N, which is added to the block's output,
`blocks.N.hook_resid_post`. SEAL numbers layers differently: its layer 20 is `hidden_states[20]`,
the input of block 20. That is `blocks.19.hook_resid_post`, so it is stored as direction.19.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.files import replacing
from mi_lens.interventions.vector import SteeringVector
from mi_lens.models.hook_names import layer_of_output

DIRECTION = re.compile(r"direction\.(\d+)")


def block_outputs(vectors: Iterable[SteeringVector]) -> dict[int, Float[Tensor, "d"]]:
    """Maps the number of a block to the vector that is added to the block's output.

    Raises:
        ValueError: If a vector is not at a block's hook_resid_post, or two vectors are at the same
            one.
    """
    directions = {}
    for vector in vectors:
        layer = layer_of_output(vector.hook_name)
        if layer is None:
            raise ValueError(
                f"{vector.hook_name!r} is no block's output; GGUF holds vectors at "
                "'blocks.N.hook_resid_post' (blocks.N.hook_resid_pre is the output of block N - 1)"
            )
        if layer in directions:
            raise ValueError(
                f"two vectors at {vector.hook_name!r}; a GGUF file holds one per block"
            )
        directions[layer] = vector.vector
    return directions


def load_gguf(path: str | Path) -> dict[int, Float[Tensor, "d"]]:
    """Reads a GGUF control vector.

    Returns:
        A mapping from the block number N to direction.N, in float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete GGUF file, holds no control vector, or is
            quantised.
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
        block, width = int(match[1]), len(next(iter(directions.values()), values))
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: tensor {name!r} holds NaN or infinity; export it again")
        if block in directions or len(values) != width:
            raise ValueError(
                f"{path}: tensor {name!r} of {len(values)} values; expected one direction for each "
                f"block, all of {width} values"
            )
        directions[block] = torch.from_numpy(values.astype(np.float32))
    return dict(sorted(directions.items()))


def save_gguf(
    directions: Mapping[int, Float[Tensor, "d"]] | Iterable[SteeringVector],
    path: str | Path,
    *,
    model_hint: str = "unknown",
) -> None:
    """Writes a GGUF control vector, in float32: `save_gguf(vectors.values(), "seal.gguf")`.

    llama.cpp does not steer block 0 and refuses a file with direction.0; EasySteer accepts it.

    Args:
        directions: Steering vectors at `blocks.N.hook_resid_post`; or a mapping from the block
            number N to the vector added to the block's output, as `load_gguf` returns it.
        path: The file to write.
        model_hint: The model's architecture, such as "qwen2"; engines may compare it with theirs.

    Raises:
        ValueError: If there are no directions, a vector is not at a block's output, two vectors are
            at the same block's output, a block number is negative, or lengths differ.
    """
    from gguf.gguf_writer import GGUFWriter

    if isinstance(directions, Mapping):
        by_block = cast("Mapping[int, Tensor]", directions)
    else:
        by_block = block_outputs(directions)
    if not by_block:
        raise ValueError("no directions to save; expected at least one block's")
    if min(by_block) < 0:
        raise ValueError(f"block {min(by_block)}: expected numbers from 0, as in blocks.0")
    shapes = {tuple(direction.shape) for direction in by_block.values()}
    if len(shapes) > 1:
        raise ValueError(f"directions of shapes {sorted(shapes)}; expected equal lengths")
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(by_block))
        for block, direction in sorted(by_block.items()):
            values = direction.detach().to("cpu", torch.float32).numpy()
            writer.add_tensor(f"direction.{block}", np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
