"""Our loop inside a compiled model: an operator that the compiler does not look into.

vLLM compiles a model when it first runs, before anything can be asked of a worker. So layers are
watched as soon as the model is loaded. The operator is where vLLM's CUDA graphs are split: between
their pieces Python runs as it does in an eager model, with everything that it may do there.

Import this module in vLLM's processes only: it registers the operator and the loader.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.model_loader import (  # pyright: ignore[reportMissingImports]
    register_model_loader,
)
from vllm.model_executor.model_loader.default_loader import (  # pyright: ignore[reportMissingImports]
    DefaultModelLoader,
)

from mi_lens.generation.engines.vllm_worker.layers import Act, Layers
from mi_lens.generation.engines.vllm_worker.wire import KEY, LOAD_FORMAT

_acts: list[Act] = []  # What the operator calls: the loop of this process, once there is one.


@torch.library.custom_op(f"{KEY}::act", mutates_args=("hidden", "residual"))
def act(hidden: Tensor, residual: Tensor | None, layer: int, before: bool) -> None:
    """Calls the loop of this process; see `WorkerLoop.act`."""
    for each in _acts:
        each(hidden, residual, layer, before)


@act.register_fake
def _(hidden: Tensor, residual: Tensor | None, layer: int, before: bool) -> None:
    return


@register_model_loader(LOAD_FORMAT)
class WatchedLoader(DefaultModelLoader):
    """Loads as vLLM does, and watches the layers that `additional_config` names."""

    def __init__(self, load_config: Any):
        load_config.load_format = "auto"
        super().__init__(load_config)

    def load_model(self, vllm_config: Any, model_config: Any, *args: Any, **kwargs: Any) -> Any:
        """See vLLM's loaders."""
        model = super().load_model(vllm_config, model_config, *args, **kwargs)
        layers = Layers(model)
        wanted = vllm_config.additional_config[KEY]["layers"]
        layers.watch([number for number in wanted if number in layers.blocks], act)
        return model


def act_by(loop_act: Act) -> None:
    """Lets the operator call the loop of this process."""
    _acts[:] = [loop_act]
