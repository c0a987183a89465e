"""What the model expected as the next token: how surely, in bits, and how like after the answer."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.interventions.replay import ReadUnder, replay_of
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.model import Model
from mi_lens.states.activation_cache import require_states
from mi_lens.traces.trace import Trace


@torch.inference_mode()
def next_token_uncertainty(
    model: Model,
    trace: Trace,
    last_states: Float[Tensor, "step d"],
    *,
    condition: ReadUnder = "as generated",
) -> dict[str, Float[np.ndarray, " step"]]:
    """How uncertain the model is about each generated token, in bits.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace.
        last_states: The trace's states at the last block's hook_resid_post.
        condition: "as generated" changes the logits as the trace's interventions did. None takes
            the model's own logits.

    Returns:
        "entropy", of the next-token distribution at temperature 1, and "surprisal", of the token
        that was emitted. Each has one value per step.

    Raises:
        ValueError: If the number of states is not the number of steps.
    """
    require_states(last_states, f"trace {trace.id}: last_states", len(trace))
    backend = backend_of(model)
    entropy, surprisal = [], []
    emitted = torch.tensor(trace.token_ids)
    replay = replay_of(model, trace, condition)
    for start in range(0, len(trace), 256):
        tokens = emitted[start : start + 256]
        logits = replay.logits(backend.unembed(model, last_states[start : start + 256]), start)
        log_p = logits.double().log_softmax(-1).cpu()
        entropy.append(torch.special.entr(log_p.exp()).sum(-1) / math.log(2))
        surprisal.append(-log_p.gather(-1, tokens[:, None])[:, 0] / math.log(2))
    return {
        "entropy": torch.cat(entropy).numpy(),
        "surprisal": torch.cat(surprisal).numpy(),
    }


@torch.inference_mode()
def next_token_similarity(
    model: Model,
    trace: Trace,
    last_states: Float[Tensor, "step d"],
    answer: Float[Tensor, " d"],
    *,
    condition: ReadUnder = "as generated",
) -> Float[np.ndarray, " step"]:
    """How like the next-token distribution of each step is to the one after the answer's text.

    Args:
        model: A HookedTransformer or TransformerBridge.
        trace: A finished trace.
        last_states: The trace's states at the last block's hook_resid_post.
        answer: The state at the last token of the answer's text, at the same hook name.
        condition: As in `next_token_uncertainty`. It holds for the trace, not for the answer.

    Returns:
        1 less the Jensen-Shannon divergence in bits, one value per step: 1 if the model expects
        the same tokens alike, 0 if no token is expected in both places.

    Raises:
        ValueError: If the number of states is not the number of steps.
    """
    require_states(last_states, f"trace {trace.id}: last_states", len(trace))
    backend = backend_of(model)
    after_answer = backend.unembed(model, answer[None]).double().softmax(-1).cpu()
    replay = replay_of(model, trace, condition)
    values = []
    for start in range(0, len(trace), 256):
        logits = replay.logits(backend.unembed(model, last_states[start : start + 256]), start)
        p = logits.double().softmax(-1).cpu()
        entropies = [torch.special.entr(q).sum(-1) for q in (p, after_answer)]
        middle = torch.special.entr((p + after_answer) / 2).sum(-1)
        values.append(1 - (middle - sum(entropies) / 2) / math.log(2))
    return torch.cat(values).clamp(0, 1).numpy()
