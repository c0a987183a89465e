"""What a step decodes to: the token it emits, the token it consumes, or its logit lens."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.float64 import in_float64
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.states.activation_cache import require_states
from mi_lens.states.uncertainty import Unembed
from mi_lens.traces.trace import Trace
from mi_lens.traces.vocabulary import vocabulary

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
        return list(trace.require_steps().token_ids)
    if readout == "consumed":
        return list(trace.consumed_ids)
    if states is None:
        raise ValueError(
            f"trace {trace.id}: the logit lens needs the states of its {len(trace)} steps, got "
            "none; pass the states that capture() returns at a hook name"
        )
    require_states(states, f"trace {trace.id}: states for the logit lens", len(trace))
    backend = backend_of(model)
    with torch.inference_mode():
        likeliest = [backend.unembed(model, part).argmax(-1) for part in states.split(256)]
        return torch.cat(likeliest).tolist()


@torch.inference_mode()
def answer_probability(
    model: Model,
    trace: Trace,
    states: Mapping[str, Float[Tensor, "step d"]],
    *,
    token_ids: Collection[int] | None = None,
) -> dict[str, Float[np.ndarray, " step"]]:
    """The probability that the logit lens gives to the beginning of the gold answer at every step.

    The final norm and the unembedding read the states of a block as if it were the last. At the
    last block's hook_resid_post, this is the model's own probability at temperature 1.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer.
        trace: A trace of n steps, with its problem unless token ids are given.
        states: The residual states of the trace at every hook name, each of shape (n, d), as
            `capture` returns them.
        token_ids: Tokens whose probabilities are added up. None takes the first token of the gold
            answer that is not blank, written with and without a space before the answer. Of a
            number whose digits are tokens, this is the first digit.

    Returns:
        A mapping from each hook name to one probability per step.

    Raises:
        ValueError: If there are no token ids and the trace has no problem with an answer, or the
            number of states is not the number of steps.
    """
    chosen = answer_beginnings(model, trace) if token_ids is None else sorted(token_ids)
    require_token_ids(model, chosen)
    for name, at_hook in states.items():
        require_states(at_hook, f"trace {trace.id}: states at {name}", len(trace))
    unembed = partial(backend_of(model).unembed, model)
    probabilities = [lens_probability(unembed, at_hook, chosen) for at_hook in states.values()]
    joined = torch.cat(probabilities or [torch.zeros(0)]).cpu().numpy()
    return dict(zip(states, joined.reshape(len(states), len(trace)), strict=True))


def require_token_ids(model: Model, token_ids: Collection[int]) -> None:
    """Raises a ValueError unless these are tokens of a model, and at least one."""
    if not token_ids or min(token_ids) < 0 or max(token_ids) >= model.cfg.d_vocab:
        raise ValueError(
            f"token_ids={list(token_ids)}: expected at least one id from 0 to "
            f"{model.cfg.d_vocab - 1}"
        )


def lens_probability(
    unembed: Unembed, states: Float[Tensor, "step d"], token_ids: Collection[int]
) -> Float[Tensor, " step"]:
    """The probability that the logit lens gives to any of some tokens at every step, in float64."""
    columns = torch.tensor(list(token_ids))
    probabilities = []
    for part in states.split(256):
        after = in_float64(unembed(part)).softmax(-1)
        columns = columns.to(after.device)
        probabilities.append(after[:, columns].sum(-1))
    return torch.cat(probabilities)


def answer_beginnings(model: Model, trace: Trace) -> list[int]:
    """The tokens that a trace's gold answer may begin with; see `answer_probability`.

    Raises:
        ValueError: If the trace has no problem, or its answer no token that is not blank.
    """
    answer = trace.require_problem("whose answer the logit lens could give").answer
    strings = vocabulary(model.tokenizer)
    beginnings = set()
    for text in (answer, f" {answer}"):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        beginnings |= set([token for token in ids if strings[token].strip()][:1])
    if not beginnings:
        raise ValueError(
            f"trace {trace.id}: the gold answer {answer!r} has no token that is not blank; give "
            "token_ids"
        )
    return sorted(beginnings)
