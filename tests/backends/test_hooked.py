"""HookedTransformer against Hugging Face's own model, in float64 throughout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_lens.backends import available, get_backend
from tests.conftest import ARCHITECTURES, float64_throughout, load_reference

if "hooked" not in available():
    pytest.skip("this TransformerLens has no HookedTransformer", allow_module_level=True)

hooked: Any = get_backend("hooked")
PADDING = (0, 7, 20)
LENGTH = 32
PROMPT = 24


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def pair(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """An architecture's HookedTransformer and its reference."""
    folder = checkpoint(request.param)
    source = load_reference(folder)
    with float64_throughout():
        return hooked.build(source, None), load_reference(folder)


def padded_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(6, 384, (len(PADDING), LENGTH), generator=generator)
    mask = torch.ones_like(tokens)
    for row, padding in enumerate(PADDING):
        mask[row, :padding] = 0
    return tokens, mask
