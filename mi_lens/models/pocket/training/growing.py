"""Begins a deeper model with the weights of a shallower one."""

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2ForCausalLM


def begin_with(model: Qwen2ForCausalLM, folder: Path) -> None:
    """Give a model the weights of one that has fewer blocks and is otherwise of the same shape.

    The blocks that it has are spread evenly. Those between them start as nothing: the matrices that
    write to the residual stream are zero, so at first both models compute the same.

    Args:
        model: The model whose weights are replaced.
        folder: Folder of the other's checkpoint.

    Raises:
        ValueError: If the model has fewer blocks than the checkpoint.
    """
    shallow = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    few, many = len(shallow.model.layers), len(model.model.layers)
    if many < few:
        raise ValueError(f"{many} blocks, and {folder} has {few}; expected as many or more")
    places = [i * many // few for i in range(few)]
    for part in ("embed_tokens", "norm"):
        getattr(model.model, part).load_state_dict(getattr(shallow.model, part).state_dict())
    model.lm_head.load_state_dict(shallow.lm_head.state_dict())
    for place, given in zip(places, shallow.model.layers, strict=True):
        model.model.layers[place].load_state_dict(given.state_dict())
    with torch.no_grad():
        for place in set(range(many)) - set(places):
            block: Any = model.model.layers[place]
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
