"""What a step decodes to: the token it emits, the token it consumes, or its logit lens."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.traces.trace import Trace

Readout = Literal["emitted", "consumed", "logit_lens"]


def decode_steps(
    model: Model, trace: Trace, readout: Readout, states: Float[Tensor, "step d"] | None = None
) -> list[int]:
    """The token id to which each step decodes.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        trace: A trace of n steps.
        readout: "emitted", the token that the state emits; "consumed", the token at the state's
            position; "logit_lens", the likeliest token according to the unembedding of `states`.
        states: The residual states of the trace, shape (n, d). Only "logit_lens" needs them.

    Raises:
        ValueError: If the readout is unknown, or if "logit_lens" does not get n states.
    """
    if readout not in get_args(Readout):
        raise ValueError(f"readout={readout!r}: expected one of {get_args(Readout)}")
    if readout == "emitted":
        return list(trace.token_ids)
    if readout == "consumed":
        return list(trace.consumed_ids)
    if states is None or len(states) != len(trace):
        raise ValueError(
            f"trace {trace.id}: the logit lens needs the states of its {len(trace)} steps, got "
            f"{'none' if states is None else len(states)}; pass the states that capture() returns "
            "at a hook name"
        )
    backend = backend_of(model)
    with torch.inference_mode():
        return [
            token
            for part in states.split(256)
            for token in backend.unembed(model, part).argmax(-1).tolist()
        ]
