"""A deeper model begins as the shallower one: the same logits, and new blocks that learn."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mi_lens.models.pocket.training.growing import begin_with
from mi_lens.models.pocket.training.tokenization import build_tokenizer
from mi_lens.models.pocket.training.train import Shape, build_model, export, loss_of


def shape(layers: int, width: int = 16) -> Shape:
    return Shape(layers=layers, width=width, heads=2, key_value_heads=1, mlp_width=32)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def shallow(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("shallow")
    export(build_model(shape(3), tokenizer), tokenizer, folder)
    return folder


@pytest.mark.parametrize("layers", [3, 5, 8])
def test_it_computes_the_same_at_first_and_every_block_learns(tokenizer, shallow: Path, layers):
    model = build_model(shape(layers), tokenizer)
    begin_with(model, shallow)
    same = build_model(shape(3), tokenizer)
    begin_with(same, shallow)
    ids = torch.randint(0, len(tokenizer), (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, same(ids).logits)
    loss_of(model, ids, ids).backward()
    blocks: Any = model.model.layers
    for block in blocks:
        for matrix in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
            assert matrix.grad is not None
            assert matrix.grad.abs().sum() > 0


def test_it_is_refused_fewer_blocks_or_another_width(tokenizer, shallow: Path):
    with pytest.raises(ValueError, match=r"2 blocks, and .* has 3; expected as many or more"):
        begin_with(build_model(shape(2), tokenizer), shallow)
    with pytest.raises(RuntimeError, match="size mismatch"):
        begin_with(build_model(shape(3, width=32), tokenizer), shallow)
