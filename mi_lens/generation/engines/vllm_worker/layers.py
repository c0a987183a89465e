"""The decoder layers of a vLLM model, and the residual stream as they pass it on.

A vLLM layer takes and gives two tensors, whose sum is the residual stream: what the last sublayer
wrote, and the stream before it, so that the addition can be fused with the next norm. The first
layer is given no second tensor, and layers of some models have none.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

KNOWN = {"positions", "hidden_states", "residual"}  # The arguments that layers are given.
# What is called with a layer's stream, its number, and whether this is before it runs.
Act = Callable[[Tensor, Tensor | None, int, bool], None]


@dataclass
class Stream:
    """The residual stream of several positions.

    Attributes:
        hidden: What the last sublayer wrote; the whole stream if there is no residual.
        residual: The stream before.
    """

    hidden: Float[Tensor, "tokens d"]
    residual: Float[Tensor, "tokens d"] | None = None

    @classmethod
    def of(cls, output: Any) -> "Stream":
        """The stream that a layer gives."""
        return cls(*output) if isinstance(output, tuple) else cls(output)

    def at(self, tokens: Int[Tensor, " some"] | slice) -> Float[Tensor, "some d"]:
        """The states at some tokens, as new numbers."""
        if self.residual is None:
            return self.hidden[tokens].clone()
        return self.hidden[tokens] + self.residual[tokens]

    def put(
        self,
        tokens: Int[Tensor, " some"] | slice,
        was: Float[Tensor, "some d"],
        states: Float[Tensor, "some d"],
    ) -> None:
        """Replaces states that changed, in place; all others keep every bit.

        Args:
            tokens: Where the states stand.
            was: What `at` gave for these tokens.
            states: What is to stand there.
        """
        if self.residual is None:
            self.hidden[tokens] = states
            return
        # A sum in a narrow dtype is rounded: a row must not be summed because others change.
        changed = (states != was).any(-1, keepdim=True)
        self.hidden[tokens] = torch.where(changed, states, self.hidden[tokens])
        self.residual[tokens] = self.residual[tokens].masked_fill(changed, 0)


class Layers:
    """The layers of a model that lie in this process.

    Args:
        model: vLLM's model.

    Attributes:
        blocks: Number of each layer to the layer.
        count: How many layers the whole model has.

    Raises:
        ValueError: If the model does not keep its layers and last norm where vLLM's language models
            do, or its layers ask for other arguments.
    """

    def __init__(self, model: Any):
        from vllm.model_executor.models.utils import (  # pyright: ignore[reportMissingImports]
            PPMissingLayer,
        )

        self.model, kind = model, type(model).__name__
        inner = getattr(model, "model", None)
        layers, norm = getattr(inner, "layers", None), getattr(inner, "norm", None)
        if layers is None or norm is None:
            raise ValueError(
                f"vLLM's {kind} has no model.layers or model.norm, where interventions act; "
                "expected one of vLLM's language models, without images, sound or adapters"
            )
        self.norm, self.count = norm, len(layers)
        self.blocks = {
            number: layer
            for number, layer in enumerate(layers)
            if not isinstance(layer, PPMissingLayer)
        }
        self._arguments: dict[int, list[str]] = {}  # In the order in which a layer takes them.
        for number, layer in self.blocks.items():
            parameters = inspect.signature(type(layer).forward).parameters
            many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names = [
                name for name in parameters if name != "self" and parameters[name].kind not in many
            ]
            strange = [
                name
                for name in names
                if name not in KNOWN and parameters[name].default is inspect.Parameter.empty
            ]
            if strange or "hidden_states" not in names or "positions" not in names:
                raise ValueError(
                    f"layers of vLLM's {kind} ask for {strange or names}; expected only "
                    f"{sorted(KNOWN)}, with which a layer can run again. Models that vLLM runs "
                    "by Hugging Face's code are such; use mi_lens.load"
                )
            self._arguments[number] = [name for name in names if name in KNOWN]

    def watch(self, numbers: Iterable[int], act: Act) -> None:
        """Lets `act` see and change the stream before and after layers, whenever they are called.

        A layer is watched at most once. `run` calls it as it was.
        """
        for number in numbers:
            layer = self.blocks[number]
            layer.forward = _watched(layer.forward, self._arguments[number], number, act)

    def run(self, layer: int, positions: Int[Tensor, " tokens"], stream: Stream) -> Stream:
        """What a layer makes of a stream, whose tensors it may use up; nothing acts on it.

        The forward context says what the layer attends to.
        """
        given = {
            "positions": positions,
            "hidden_states": stream.hidden,
            "residual": stream.residual,
        }
        arguments = {name: given[name] for name in self._arguments[layer]}
        block = self.blocks[layer]
        return Stream.of(type(block).forward(block, **arguments))

    def logits(self, stream: Stream) -> Float[Tensor, "tokens d_vocab"]:
        """The logits of a stream behind the last layer."""
        if stream.residual is None:
            normed = self.norm(stream.hidden)
        else:
            normed, _ = self.norm(stream.hidden, stream.residual)
        return self.model.compute_logits(normed)


def _watched(forward: Any, arguments: list[str], number: int, act: Act) -> Any:
    def watched(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(arguments, args, strict=False)) | kwargs
        act(given["hidden_states"], given.get("residual"), number, True)
        output = forward(*args, **kwargs)
        if isinstance(output, tuple):
            act(output[0], output[1], number, False)
        else:
            act(output, None, number, False)
        return output

    return watched
